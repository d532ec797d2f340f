// Drafters by name.
#pragma once

#include <memory>
#include <string>

#include "../backend.h"
#include "../bundle.h"
#include "draft.h"
#include "table_file.h"

namespace farthing {

// Names of make_drafter, for messages: "auto, lookup, ...".
std::string drafter_names();
// A drafter that needs no model, for texts of at most `capacity` tokens: lookup, aded, or both as auto; `table` is for aded, or null.
// Null for other names.
std::shared_ptr<Drafter> make_text_drafter(const std::string& name, std::int64_t capacity,
                                           std::shared_ptr<const TableFile> table = nullptr);
// A drafter for texts that fit the backend, which must live as long. `table`: path of a draft table; empty = none. Throws Error(request, bundle).
std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle& bundle, Backend& backend,
                                      const std::string& table);
// A draft table for that bundle's tokens. Throws Error(bundle).
std::shared_ptr<const TableFile> open_table(const Bundle& bundle, const std::string& path);

}  // namespace farthing
