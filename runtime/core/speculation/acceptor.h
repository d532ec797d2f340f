// Which drafted token the text goes on with.
#pragma once

#include <cstdint>
#include <span>

#include "plan.h"

namespace farthing {

// What a pass said about a plan's rows.
struct Verification {
  const Plan& plan;
  std::span<const float> logits;  // [rows, V]
  std::span<const float> judge;   // [rows]: how good the row's own token is; empty where the graph has no judge
  std::int64_t vocab = 0;

  std::span<const float> row(std::int32_t i) const {
    return logits.subspan(static_cast<std::size_t>(i) * static_cast<std::size_t>(vocab),
                          static_cast<std::size_t>(vocab));
  }
};

class Acceptor {
 public:
  virtual ~Acceptor() = default;
  virtual const char* name() const = 0;
  // "exact": the text is that of plain decoding. "lossy": it is not.
  virtual const char* guarantee() const = 0;
  virtual void begin() {}
  // Plain decoding would say `drawn` behind `row`. Returns the row whose token is said instead (one behind `row`), or -1: `drawn` is
  // said, and the pass has nothing more to give.
  virtual std::int32_t accept(const Verification& pass, std::int32_t row, std::int32_t drawn) = 0;
};

// Goes on while the draft says what was drawn. One token is drawn at a node, from the model's own distribution and by the random
// number that plain decoding would use there; all paths share it. So the text is that of plain decoding with the same seed, token by
// token, greedy or sampled. (Testing each path with a draw of its own, as some implementations do, favours drafted tokens.)
class ExactAcceptor final : public Acceptor {
 public:
  const char* name() const override { return "exact"; }
  const char* guarantee() const override { return "exact"; }
  std::int32_t accept(const Verification& pass, std::int32_t row, std::int32_t drawn) override {
    return pass.plan.child(row, drawn);
  }
};

}  // namespace farthing
