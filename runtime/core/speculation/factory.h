// Drafters by name.
#pragma once

#include <memory>
#include <string>

#include "../bundle.h"
#include "draft.h"

namespace farthing {

// Names of make_drafter, for messages: "auto, lookup, ...".
std::string drafter_names();
// A drafter for texts of at most `capacity` tokens. `table`: path of a draft table; empty = none. Throws Error(request, bundle).
std::shared_ptr<Drafter> make_drafter(const std::string& name, const Bundle& bundle, std::int64_t capacity,
                                      const std::string& table);

}  // namespace farthing
