#include "factory.h"

#include <utility>

#include "../error.h"
#include "../sha256.h"
#include "aded.h"
#include "combined.h"
#include "lookup.h"
#include "self_drafter.h"

namespace farthing {

std::string drafter_names() { return "none, auto, lookup, aded, mtp, ftp, model"; }

namespace {

std::shared_ptr<Drafter> combined(std::int64_t capacity, std::shared_ptr<const TableFile> table,
                                  std::shared_ptr<Drafter> self) {
  return std::make_shared<CombinedDrafter>(
      std::vector<std::shared_ptr<Drafter>>{std::make_shared<LookupDrafter>(capacity),
                                            std::make_shared<AdedDrafter>(capacity, std::move(table))},
      std::move(self));
}

}  // namespace

std::shared_ptr<Drafter> make_text_drafter(const std::string& name, std::int64_t capacity,
                                           std::shared_ptr<const TableFile> table) {
  if (name == "lookup") return std::make_shared<LookupDrafter>(capacity);
  if (name == "aded") return std::make_shared<AdedDrafter>(capacity, std::move(table));
  if (name == "auto") {
    return combined(capacity, std::move(table), nullptr);
  }
  return nullptr;
}

std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle& bundle, Backend& backend,
                                      const std::string& table) {
  const bool self = name == "mtp" || name == "ftp";
  if ((name == "mtp" && backend.masks() == 0) || (name == "ftp" && (backend.drafts() == 0 || backend.masks() > 0))) {
    refuse(Status::request, "draft", "'" + name + "' for a model without it", "a bundle of farthing export " + name,
           "choose another draft");
  }
  std::shared_ptr<const TableFile> file;
  if (!table.empty()) {
    if (name != "aded" && name != "auto") {
      refuse(Status::request, "draft table", "given for '" + name.substr(0, 40) + "'", "aded or auto",
             "leave the table out, or choose aded");
    }
    file = open_table(bundle, table);
  }
  if (self) return std::make_shared<SelfDrafter>(backend);
  if (name == "auto" && backend.drafts() > 0) {
    return combined(backend.capacity(), std::move(file), std::make_shared<SelfDrafter>(backend));
  }
  if (auto drafter = make_text_drafter(name, backend.capacity(), std::move(file))) return drafter;
  refuse(Status::request, "draft", "'" + name.substr(0, 40) + "'", "one of " + drafter_names(), "choose one");
}

std::shared_ptr<const TableFile> open_table(const Bundle& bundle, const std::string& path) {
  return std::make_shared<TableFile>(path, bundle.vocab_size, bundle.tokenizer ? sha256_of(*bundle.tokenizer) : "");
}

}  // namespace farthing
