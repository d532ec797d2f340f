#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"

namespace farthing {
namespace {

// Weights below this share of the largest are left out: all of a vocabulary of 10^6 of them weigh less than 10^-14.
constexpr double kNegligible = 1e-20;

void check_number(bool good, const char* what, double found, const char* wanted) {
  if (!good) refuse(Status::request, what, std::to_string(found), wanted, "choose another value");
}

// Largest logit, lowest id on ties. Eight independent chains, since one chain of compares costs 4 cycles an element.
std::int32_t argmax(std::span<const float> logits) {
  constexpr std::size_t kChains = 8;
  float best[kChains];
  std::size_t where[kChains];
  std::fill(best, best + kChains, -std::numeric_limits<float>::infinity());
  std::fill(where, where + kChains, std::size_t{0});
  bool nan = false;
  std::size_t i = 0;
  for (; i + kChains <= logits.size(); i += kChains) {
    for (std::size_t c = 0; c < kChains; ++c) {
      const float value = logits[i + c];
      const bool more = value > best[c];
      best[c] = more ? value : best[c];
      where[c] = more ? i + c : where[c];
      nan |= value != value;
    }
  }
  for (; i < logits.size(); ++i) {
    if (logits[i] > best[0]) best[0] = logits[i], where[0] = i;
    nan |= logits[i] != logits[i];
  }
  if (nan) {
    throw Error(Status::internal, "a logit is NaN, expected numbers; run `farthing verify` on the bundle");
  }
  std::size_t winner = 0;
  for (std::size_t c = 1; c < kChains; ++c) {
    if (best[c] > best[winner] || (best[c] == best[winner] && where[c] < where[winner])) winner = c;
  }
  return static_cast<std::int32_t>(where[winner]);
}

}  // namespace

void check(const SamplerOptions& o) {
  check_number(o.temperature >= 0 && o.temperature <= 1e6, "temperature", o.temperature, "0 to 1000000");
  check_number(o.top_k >= 0, "top_k", static_cast<double>(o.top_k), "0 (off) or more");
  check_number(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "above 0, at most 1 (off)");
  check_number(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 (off) to 1");
  check_number(o.repetition_penalty > 0 && o.repetition_penalty <= 1e6, "repetition_penalty", o.repetition_penalty,
               "above 0; 1 is off");
}

double uniform(std::uint64_t seed, std::uint64_t step) {
  std::uint64_t x = seed + (step + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  return static_cast<double>(x >> 11) * 0x1p-53;
}

Sampler::Sampler(std::int64_t vocab_size) {
  const auto v = static_cast<std::size_t>(vocab_size);
  candidates_.reserve(v);
  penalised_.reserve(v);
  seen_.reserve(v);
  is_seen_.resize(v);
}

void Sampler::forget() {
  for (const std::int32_t id : seen_) is_seen_[static_cast<std::size_t>(id)] = false;
  seen_.clear();
}

void Sampler::see(std::int32_t id) {
  if (is_seen_[static_cast<std::size_t>(id)]) return;
  is_seen_[static_cast<std::size_t>(id)] = true;
  seen_.push_back(id);
}

std::int32_t Sampler::next(std::span<const float> logits, const SamplerOptions& o, std::uint64_t step) {
  if (o.repetition_penalty != 1) {
    penalised_.assign(logits.begin(), logits.end());
    for (const std::int32_t id : seen_) {
      float& logit = penalised_[static_cast<std::size_t>(id)];
      logit = static_cast<float>(logit > 0 ? logit / o.repetition_penalty : logit * o.repetition_penalty);
    }
    logits = penalised_;
  }
  const std::int32_t top = argmax(logits);
  if (o.temperature == 0 || std::isinf(logits[static_cast<std::size_t>(top)])) return top;

  const double peak = static_cast<double>(logits[static_cast<std::size_t>(top)]) / o.temperature;
  // What min_p drops can be left out before sorting, unless top_p has to count it first.
  const double least = o.top_p < 1 ? kNegligible : std::max(kNegligible, o.min_p * (1 - 1e-9));
  const double floor = peak + std::log(least);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double logit = static_cast<double>(logits[i]) / o.temperature;
    if (logit >= floor) candidates_.push_back({logit, static_cast<std::int32_t>(i)});
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  std::size_t kept = candidates_.size();
  if (o.top_k > 0 && static_cast<std::uint64_t>(o.top_k) < kept) {
    kept = static_cast<std::size_t>(o.top_k);
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept), candidates_.end(),
                      before);
  } else {
    std::sort(candidates_.begin(), candidates_.end(), before);
  }
  double total = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    candidates_[i].logit = std::exp(candidates_[i].logit - peak);  // from here on the weight
    total += candidates_[i].logit;
  }
  if (o.top_p < 1) {
    double mass = 0;
    std::size_t n = 0;
    while (n < kept && mass < o.top_p * total) mass += candidates_[n++].logit;
    kept = std::max<std::size_t>(n, 1);
  }
  while (kept > 1 && candidates_[kept - 1].logit < o.min_p) --kept;
  total = 0;  // added up anew, in the order of the draw: a difference would round otherwise than runtime/sampling.py
  for (std::size_t i = 0; i < kept; ++i) total += candidates_[i].logit;
  const double target = uniform(o.seed, step) * total;
  double running = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    running += candidates_[i].logit;
    if (running > target) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;
}

}  // namespace farthing
