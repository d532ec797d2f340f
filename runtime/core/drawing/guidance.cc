#include "guidance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>

#include "error.h"

namespace farthing::drawing {
namespace {

constexpr std::array<std::string_view, 7> kNames{"constant", "linear", "half_linear", "cosine",
                                                 "log",      "square", "square_root"};

// Which share of the way from 1 to the full scale is gone at r.
double share(Schedule schedule, double r) {
  constexpr double pi = std::numbers::pi;
  switch (schedule) {
    case Schedule::linear:
      return r;
    case Schedule::half_linear:
      return std::min(1.0, 2.0 * r);
    case Schedule::cosine:
      return std::cos(-pi / 2 + r * pi / 2);
    case Schedule::log:
      return std::log1p(r * (std::numbers::e - 1));
    case Schedule::square:
      return r * r;
    case Schedule::square_root:
      return std::sqrt(r);
    default:
      return 1.0;
  }
}

}  // namespace

Schedule schedule_of(const std::string& name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    std::string all;
    for (const std::string_view each : kNames) all += (all.empty() ? "" : ", ") + std::string(each);
    refuse(Status::request, "guidance schedule", "'" + name.substr(0, 60) + "'", "one of " + all, "correct it");
  }
  return static_cast<Schedule>(found - kNames.begin());
}

float Guidance::at(std::int64_t code, std::int64_t codes) const {
  if (0 <= interval && interval <= code) return 1.0f;
  const double r = static_cast<double>(std::min(code, codes - 1) + 1) / static_cast<double>(codes);
  return static_cast<float>(1.0 + (scale - 1.0) * share(schedule, r));
}

void check(const Guidance& guidance) {
  if (!(guidance.scale >= 0 && guidance.scale <= 100)) {
    refuse(Status::request, "guidance scale", std::to_string(guidance.scale), "0 to 100", "correct it");
  }
  if (guidance.interval < -1) {
    refuse(Status::request, "guidance interval", std::to_string(guidance.interval), "-1 (all codes) or more",
           "correct it");
  }
}

}  // namespace farthing::drawing
