#include "factory.h"

#include "../error.h"

namespace farthing {

std::string drafter_names() { return "none, auto, lookup, aded"; }

std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle&, std::int64_t, const std::string&) {
  refuse(Status::request, "draft", "'" + name.substr(0, 40) + "'", "one of " + drafter_names(), "choose one");
}

}  // namespace farthing
