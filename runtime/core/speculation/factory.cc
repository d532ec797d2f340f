#include "factory.h"

#include "../error.h"
#include "aded.h"
#include "combined.h"
#include "lookup.h"
#include "self_drafter.h"

namespace farthing {

std::string drafter_names() { return "none, auto, lookup, aded, mtp, ftp"; }

std::shared_ptr<Drafter> make_text_drafter(const std::string& name, std::int64_t capacity) {
  if (name == "lookup") return std::make_shared<LookupDrafter>(capacity);
  if (name == "aded") return std::make_shared<AdedDrafter>(capacity);
  if (name == "auto") {
    return std::make_shared<CombinedDrafter>(std::vector<std::shared_ptr<Drafter>>{
        std::make_shared<LookupDrafter>(capacity), std::make_shared<AdedDrafter>(capacity)});
  }
  return nullptr;
}

std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle&, Backend& backend, const std::string&) {
  const bool self = name == "mtp" || name == "ftp";
  if ((name == "mtp" && backend.masks() == 0) || (name == "ftp" && (backend.drafts() == 0 || backend.masks() > 0))) {
    refuse(Status::request, "draft", "'" + name + "' for a model without it", "a bundle of farthing export " + name,
           "choose another draft");
  }
  if (self || (name == "auto" && backend.drafts() > 0)) return std::make_shared<SelfDrafter>(backend);
  if (auto drafter = make_text_drafter(name, backend.capacity())) return drafter;
  refuse(Status::request, "draft", "'" + name.substr(0, 40) + "'", "one of " + drafter_names(), "choose one");
}

}  // namespace farthing
