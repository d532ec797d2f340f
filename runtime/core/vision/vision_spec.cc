#include "vision_spec.h"

#include <cmath>

#include "../error.h"

namespace farthing {

std::int64_t keep_count(std::int64_t tokens, double ratio) {
  const auto kept = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(tokens) * (1.0 - ratio)));
  return kept == 0 && ratio < 1.0 && tokens > 0 ? 1 : kept;
}

const VisionLevel& VisionSpec::level_of(const std::string& id) const {
  const std::string& wanted = id.empty() ? level : id;
  std::string known;
  for (const VisionLevel& each : levels) {
    if (each.id == wanted) return each;
    known += (known.empty() ? "" : ", ") + each.id;
  }
  refuse(Status::request, "level", "'" + wanted.substr(0, 60) + "'", "one of " + known,
         "choose one of these, or export the bundle with that level");
}

const VisionChoice& VisionSpec::choice_of(const VisionLevel& asked, std::int64_t rows, std::int64_t newlines) const {
  if (!asked.buckets) return asked.choices.front();
  const std::int64_t kept = keep_count(rows - newlines, asked.ratio) + newlines;
  for (const VisionChoice& choice : asked.choices) {
    if (choice.tokens < kept) continue;
    return choice.tokens < rows ? choice : level_of("full").choices.front();
  }
  refuse(Status::request, "tokens to keep", std::to_string(kept),
         "at most " + std::to_string(asked.choices.back().tokens), "export a larger bucket");
}

}  // namespace farthing
