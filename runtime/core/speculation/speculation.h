// Guessing ahead without ever losing: what runs beside the newest token, and whether anything does.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "acceptor.h"
#include "cost.h"
#include "draft.h"
#include "plan.h"

namespace farthing {

struct SpeculationOptions {
  std::int64_t nodes = 15;  // most drafted rows of a pass
  std::int64_t depth = 15;  // longest drafted path
  bool tree = true;         // use branches where the model takes them
  // Where the model has a judge: whether it may accept tokens, and above which P(good) instead of the bundle's delta.
  bool judge = true;
  std::optional<double> delta;
  bool always = false;  // run every draft, whatever it costs: for measuring
  // Behind which rows mask tokens go: those that pay, all (quadratic decoding), or only the last (linear decoding).
  enum class Masks { paying, all, last } masks = Masks::paying;
};

struct SpeculationStats {
  std::int64_t drafts = 0, drafted = 0, accepted = 0;  // passes with a draft, its rows, and those that were right
  std::int64_t judged = 0;                             // accepted ones that plain decoding would not have said
  std::int64_t withheld = 0;                           // drafts that the guard kept from running
  double draft_seconds = 0;                            // spent in drafter, choice and acceptor, wall clock
};

// Keeps the account of what drafts have cost and brought, in units of plain passes. A draft that brings nothing costs
// T(rows)/T(1) - 1, and the time it took to make. What was lost may never exceed 1 + 1% of the passes so far, and a credit of at most 8 passes can be gathered by
// winning; beyond that no draft runs until plain passes have paid. So on a text where every guess is wrong, decoding is at most
// 1% + one pass slower than plain, by the measured cost.
class Guard {
 public:
  void reset() { lost_ = 0, passes_ = 0; }
  // Whether a pass of that relative cost may run.
  bool allows(double relative) const { return lost_ + relative - 1 <= 1 + kShare * passes_; }
  void ran(double relative, std::int64_t tokens);

 private:
  static constexpr double kShare = 0.01, kCredit = 8;
  double lost_ = 0, passes_ = 0;
};

// One drafter and one acceptor over one sequence. Allocates nothing after warm-up.
class Speculation {
 public:
  // `most_rows`: rows a pass may have. `branches`: the model's graph takes trees. `masks`: mask tokens it knows.
  Speculation(std::shared_ptr<Drafter> drafter, std::shared_ptr<Acceptor> acceptor, const SpeculationOptions& options,
              PassCost cost, std::int64_t most_rows, bool branches, std::int64_t masks);

  void begin(std::span<const std::int32_t> text);
  // Rows that run with `root`, the newest token; the plan has one row where nothing is worth guessing. `added` is the
  // text since the last call, root its end; `room` how many tokens may follow root, `slots` how many rows a pass may have.
  // `texts` run together, each with a row for every row of the longest: costs are those of such a pass, with drafts for all of them,
  // in units of one text's share of a pass without. charge() then says what the pass really was.
  const Plan& plan(std::span<const std::int32_t> added, std::int64_t past, std::int64_t room, std::int64_t slots,
                   std::int64_t texts = 1);
  // The pass has `rows` rows for each text, and `drafting` texts with a draft pay for those.
  void charge(std::int64_t rows, std::int64_t drafting, std::int64_t past);
  // Child row to go on with behind `row`, or -1.
  std::int32_t accept(const Verification& pass, std::int32_t row, std::int32_t drawn);
  // `path` are the accepted rows, `judged` of them not drawn; `latents` those of all masks of the pass, float32 [masks, D],
  // or the last accepted row's, float32 [L].
  void ran(std::span<const std::int32_t> path, std::int64_t judged, std::span<const float> latents);

  const SpeculationStats& stats() const { return stats_; }
  const PassCost& cost() const { return cost_; }
  std::int64_t most_rows() const { return options_.nodes + 1; }
  const Drafter& drafter() const { return *drafter_; }
  const Acceptor& acceptor() const { return *acceptor_; }

 private:
  // Seconds in units of a pass of one row, or a text's share of one.
  double in_passes(double seconds, std::int64_t past) const {
    return cost_.known() ? seconds * static_cast<double>(texts_) / cost_.seconds(texts_, past) : 0;
  }
  double relative(std::int64_t rows, std::int64_t past) const {
    return texts_ == 1 ? cost_.relative(rows, past)
                       : cost_.relative(rows * texts_, past) / cost_.relative(texts_, past);
  }
  bool worth_asking(std::int64_t past);
  std::span<const std::int32_t> chosen(std::int64_t past, std::int64_t room, std::int64_t slots);
  void add_masks(std::int64_t past, std::int64_t room, std::int64_t slots);

  std::shared_ptr<Drafter> drafter_;
  std::shared_ptr<Acceptor> acceptor_;
  SpeculationOptions options_;
  PassCost cost_;
  std::int64_t most_rows_;
  bool branches_;
  std::int64_t masks_;
  std::int64_t texts_ = 1;
  Draft draft_;
  NodeChoice choice_;
  Plan plan_;
  Guard guard_;
  SpeculationStats stats_;
  std::vector<std::int32_t> path_, masked_;
  std::vector<float> stops_;            // of each row, the probability that the text stops there
  std::int64_t skipped_ = 0;            // passes since a draft was left out because it takes longer than it brings
  double relative_ = 1;                 // cost of the pass that was planned, with its draft, in passes of one row
  double drafting_ = 0, proposal_ = 0;  // seconds: of this pass's draft, and of a draft in the mean
};

}  // namespace farthing
