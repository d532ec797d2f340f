// Judge decoding (Bachmann et al. 2025, arXiv 2501.19309): a linear head of the model says whether a drafted token will do.
#pragma once

#include "../bundle.h"
#include "acceptor.h"

namespace farthing {

// Goes on with what was drawn where the draft says it, and else with the drafted token that the judge thinks best, if the rule of the
// bundle lets it: P(good) above delta, the model's own probability of it at least min_probability, no control token, and no more than
// max_consecutive of them in a row. Twin of `farthing.models.judge.accept_run`. Lossy.
class JudgeAcceptor final : public Acceptor {
 public:
  // Throws Error(request) where delta is not in [0, 1].
  explicit JudgeAcceptor(JudgeRule rule);

  const char* name() const override { return "judge"; }
  const char* guarantee() const override { return "lossy"; }
  void begin() override { streak_ = 0; }
  std::int32_t accept(const Verification& pass, std::int32_t row, std::int32_t drawn) override;

 private:
  bool allowed(std::int32_t id) const;

  JudgeRule rule_;
  std::int64_t streak_ = 0;  // tokens in a row that the judge alone accepted
};

}  // namespace farthing
