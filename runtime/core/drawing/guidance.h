// Classifier-free guidance (Ho and Salimans 2022) and its schedules: logits = u + scale * (c - u).
#pragma once

#include <cstdint>
#include <string>

namespace farthing::drawing {

enum class Schedule { constant, linear, half_linear, cosine, log, square, square_root };

// Throws Error(request) for another name.
Schedule schedule_of(const std::string& name);

struct Guidance {
  double scale = 4;            // 1 = none: then no unconditional rows run
  std::int64_t interval = -1;  // codes that are guided; -1 = all
  Schedule schedule = Schedule::constant;

  bool guided() const { return scale != 1; }
  // For code number `code` of `codes`, the same as runtime/drawing/guidance.py.
  float at(std::int64_t code, std::int64_t codes) const;
};

// Throws Error(request).
void check(const Guidance& guidance);

}  // namespace farthing::drawing
