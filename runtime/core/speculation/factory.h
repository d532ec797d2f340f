// Drafters by name.
#pragma once

#include <memory>
#include <string>

#include "../backend.h"
#include "../bundle.h"
#include "draft.h"

namespace farthing {

// Names of make_drafter, for messages: "auto, lookup, ...".
std::string drafter_names();
// A drafter that needs no model, for texts of at most `capacity` tokens: lookup, aded, or both as auto. Null for other names.
std::shared_ptr<Drafter> make_text_drafter(const std::string& name, std::int64_t capacity);
// A drafter for texts that fit the backend, which must live as long. `table`: path of a draft table; empty = none. Throws Error(request, bundle).
std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle& bundle, Backend& backend,
                                      const std::string& table);

}  // namespace farthing
