// From logits to a token id. farthing/runtime/sampling.py is the same procedure; equal seeds give equal tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace farthing {

struct SamplerOptions {
  double temperature = 0;         // 0 = greedy
  std::int64_t top_k = 0;         // 0 = off
  double top_p = 1;               // 1 = off
  double min_p = 0;               // 0 = off
  double repetition_penalty = 1;  // 1 = off; applied to every id seen in prompt and answer (Keskar et al. 2019, CTRL)
  std::uint64_t seed = 0;
};

// Throws Error(request) naming the option that makes no sense.
void check(const SamplerOptions& options);

// u in [0, 1) of draw `step` under `seed`: SplitMix64 (Steele et al. 2014) as a counter, so that draws need no state.
double uniform(std::uint64_t seed, std::uint64_t step);

// Owns the scratch memory; allocates only when constructed.
class Sampler {
 public:
  explicit Sampler(std::int64_t vocab_size);

  // Forgets or adds what the repetition penalty counts as seen.
  void forget();
  void see(std::int32_t id);

  // The next id from float32 logits [V]. `step` is the number of tokens drawn before in this generation.
  // Throws Error(internal) when all logits are NaN or one is.
  std::int32_t next(std::span<const float> logits, const SamplerOptions& options, std::uint64_t step);

 private:
  struct Candidate {
    double logit;
    std::int32_t id;
  };
  std::vector<Candidate> candidates_;
  std::vector<float> penalised_;
  std::vector<std::int32_t> seen_;
  std::vector<bool> is_seen_;
};

}  // namespace farthing
