#include "factory.h"

#include "../error.h"
#include "lookup.h"
#include "mtp.h"

namespace farthing {

std::string drafter_names() { return "none, auto, lookup, aded, mtp"; }

std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle&, Backend& backend, const std::string&) {
  if (name == "mtp" || (name == "auto" && backend.masks() > 0)) return std::make_shared<MtpDrafter>(backend);
  if (name == "lookup" || name == "auto") return std::make_shared<LookupDrafter>(backend.capacity());
  refuse(Status::request, "draft", "'" + name.substr(0, 40) + "'", "one of " + drafter_names(), "choose one");
}

}  // namespace farthing
