#include "speculation.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "../error.h"

namespace farthing {
namespace {

// A gain below this is not worth a draft: estimates of chances are no better.
constexpr double kMargin = 0.02;

// Passes after which a drafter that was left out is asked again.
constexpr std::int64_t kRetry = 48;

// Weight of the newest measurement of what a proposal takes.
constexpr double kProposalShare = 1.0 / 16;

class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total) {}
  ~Stopwatch() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void check_draft(const Draft& draft, const DraftLimits& limits, const char* name) {
  const bool sized = draft.parents.size() == draft.size() && draft.chances.size() == draft.size();
  bool sound = sized && static_cast<std::int64_t>(draft.size()) <= limits.nodes;
  for (std::size_t i = 0; sound && i < draft.size(); ++i) {
    const auto before = static_cast<std::int32_t>(i) - 1;
    sound = limits.tree ? draft.parents[i] >= -1 && draft.parents[i] <= before : draft.parents[i] == before;
  }
  if (!sound) {
    throw Error(Status::internal,
                std::string("the draft of ") + name +
                    " is malformed, expected parents before their nodes within the limits; mend the drafter");
  }
}

}  // namespace

void Guard::ran(double relative, std::int64_t tokens) {
  passes_ += 1;
  lost_ = std::max(lost_ + relative - static_cast<double>(tokens), kShare * passes_ - kCredit);
}

Speculation::Speculation(std::shared_ptr<Drafter> drafter, std::shared_ptr<Acceptor> acceptor,
                         const SpeculationOptions& options, PassCost cost, std::int64_t most_rows, bool branches,
                         std::int64_t masks)
    : drafter_(std::move(drafter)),
      acceptor_(std::move(acceptor)),
      options_(options),
      cost_(std::move(cost)),
      most_rows_(most_rows),
      branches_(branches && options.tree),
      masks_(masks),
      choice_(options.nodes),
      plan_(options.nodes + 1) {
  if (options.nodes < 1 || options.nodes >= most_rows || options.depth < 1) {
    refuse(Status::request, "drafted rows", std::to_string(options.nodes), "1 to " + std::to_string(most_rows - 1),
           "choose another number");
  }
  const auto most = static_cast<std::size_t>(options.nodes);
  draft_.ids.reserve(most), draft_.parents.reserve(most), draft_.chances.reserve(most), path_.reserve(most);
  masked_.reserve(most + 1), stops_.reserve(most + 1);
}

void Speculation::begin(std::span<const std::int32_t> text) {
  stats_ = {};
  guard_.reset();
  acceptor_->begin();
  const Stopwatch watch(stats_.draft_seconds);
  drafter_->begin(text);
}

bool Speculation::worth_asking(std::int64_t past) {
  const bool worth = options_.always || !cost_.known() || drafter_->worth() > in_passes(proposal_, past);
  skipped_ = worth ? 0 : skipped_ + 1;
  if (skipped_ < kRetry) return worth;
  skipped_ = 0;
  return true;
}

std::span<const std::int32_t> Speculation::chosen(std::int64_t past, std::int64_t room, std::int64_t slots) {
  draft_.clear();
  const DraftLimits limits{std::min({options_.nodes, slots - 1, branches_ ? options_.nodes : room}),
                           std::min(options_.depth, room), branches_,
                           cost_.known() ? cost_.seconds(texts_, past) / static_cast<double>(texts_) : 0};
  if (limits.nodes < 1 || limits.depth < 1 || !worth_asking(past)) return {};
  const double before = stats_.draft_seconds;
  {
    const Stopwatch watch(stats_.draft_seconds);
    drafter_->propose(limits, draft_);
  }
  drafting_ = stats_.draft_seconds - before;
  if (draft_.size() > 0) proposal_ += (drafting_ - proposal_) * (proposal_ > 0 ? kProposalShare : 1);
  check_draft(draft_, limits, drafter_->name());
  if (options_.always || !cost_.known()) return choice_.all(draft_);
  const auto nodes = choice_.choose(draft_, kMargin, [&](std::int64_t rows) { return relative(rows, past); });
  if (!nodes.empty() && !guard_.allows(relative(static_cast<std::int64_t>(nodes.size()) + 1, past))) {
    ++stats_.withheld;
    return {};
  }
  return nodes;
}

const Plan& Speculation::plan(std::span<const std::int32_t> added, std::int64_t past, std::int64_t room,
                              std::int64_t slots, std::int64_t texts) {
  texts_ = texts;
  slots = std::min(slots, most_rows_);
  drafting_ = 0;
  {
    const Stopwatch watch(stats_.draft_seconds);
    drafter_->observe(added);
  }
  plan_.set(added.back(), draft_, chosen(past, room, slots));
  if (masks_ > 0) add_masks(past, room, slots);
  relative_ = relative(static_cast<std::int64_t>(plan_.all_rows()), past) + in_passes(drafting_, past);
  return plan_;
}

void Speculation::charge(std::int64_t rows, std::int64_t drafting, std::int64_t past) {
  relative_ = 1 + in_passes(drafting_, past);
  if (plan_.rows() > 1 && drafting > 0) {
    relative_ += (relative(rows, past) - 1) * static_cast<double>(texts_) / static_cast<double>(drafting);
  }
}

// Masks behind a row are worth the draft they make, if the text stops at that row: P(stop) * worth, in plain passes. Rows are taken by
// falling P(stop) for as long as that is more than what their masks cost.
void Speculation::add_masks(std::int64_t past, std::int64_t room, std::int64_t slots) {
  const auto cost = [&](std::int64_t rows) { return relative(rows, past); };
  const std::int64_t free = std::min(slots - static_cast<std::int64_t>(plan_.rows()), room);
  const std::int64_t count = std::min({drafter_->masks(cost), masks_, free});
  if (count < 1) return;
  const auto rows = static_cast<std::int32_t>(plan_.rows());
  masked_.clear();
  if (options_.masks == SpeculationOptions::Masks::last) {
    masked_.push_back(rows - 1);
  } else {
    stops_.assign(plan_.rows(), 1);
    for (std::int32_t row = 1; row < rows; ++row) {
      const float reach = choice_.reach(plan_.nodes()[static_cast<std::size_t>(row) - 1]);
      stops_[static_cast<std::size_t>(row)] = reach;
      stops_[static_cast<std::size_t>(plan_.parents()[static_cast<std::size_t>(row)])] -= reach;
    }
    for (std::int32_t row = 0; row < rows; ++row) masked_.push_back(row);
    std::stable_sort(masked_.begin(), masked_.end(), [this](std::int32_t a, std::int32_t b) {
      return stops_[static_cast<std::size_t>(a)] > stops_[static_cast<std::size_t>(b)];
    });
    const double proposal = in_passes(proposal_, past);
    std::size_t taken = 0;
    for (std::int64_t all = rows; taken < masked_.size(); ++taken, all += count) {
      const double worth = stops_[static_cast<std::size_t>(masked_[taken])] * (drafter_->mask_worth() - proposal);
      const bool pays = options_.masks == SpeculationOptions::Masks::all || options_.always || !cost_.known() ||
                        worth > cost(all + count) - cost(all);
      if (!pays || all + count > slots) break;
    }
    masked_.resize(taken);
    std::sort(masked_.begin(), masked_.end());
  }
  if (!masked_.empty() && options_.masks == SpeculationOptions::Masks::paying && !options_.always && cost_.known()) {
    const auto all = rows + count * static_cast<std::int64_t>(masked_.size());
    if (!guard_.allows(cost(all) - (rows > 1 ? choice_.expected() : 0))) masked_.clear();
  }
  plan_.add_masks(count, masked_);
}

std::int32_t Speculation::accept(const Verification& pass, std::int32_t row, std::int32_t drawn) {
  return acceptor_->accept(pass, row, drawn);
}

void Speculation::ran(std::span<const std::int32_t> path, std::int64_t judged, std::span<const float> latents) {
  guard_.ran(relative_, static_cast<std::int64_t>(path.size()) + 1);
  const Stopwatch watch(stats_.draft_seconds);
  if (plan_.rows() > 1) {
    ++stats_.drafts;
    stats_.drafted += static_cast<std::int64_t>(plan_.rows()) - 1;
    stats_.accepted += static_cast<std::int64_t>(path.size());
    stats_.judged += judged;
    path_.clear();
    for (const std::int32_t row : path) path_.push_back(plan_.nodes()[static_cast<std::size_t>(row) - 1]);
    drafter_->verified(draft_, plan_.nodes(), path_);
  }
  if (masks_ == 0) return drafter_->latents(latents);
  const std::int32_t block = plan_.block(path.empty() ? 0 : path.back());
  const std::size_t blocks = plan_.masked_rows().size();
  if (block < 0 || blocks == 0) return drafter_->latents({});
  const std::size_t size = latents.size() / blocks;
  drafter_->latents(latents.subspan(static_cast<std::size_t>(block) * size, size));
}

}  // namespace farthing
