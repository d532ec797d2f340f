// A guess at the next tokens, and what makes one.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

namespace farthing {

// A tree of guessed tokens. Its root is the newest token of the text, chosen but not run yet, and is no node of it. A chain is a
// tree in which every node follows the one before. Nodes stand behind their parents.
struct Draft {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> parents;  // index of the node before this one; -1 = the root
  // The drafter's estimate that a node is what the model says, given that its parent was: in [0, 1]. The loop trusts it when it
  // weighs a row's cost against what it may bring, so a drafter learns it from `Drafter::verified`.
  std::vector<float> chances;

  std::size_t size() const { return ids.size(); }
  void clear() {
    ids.clear();
    parents.clear();
    chances.clear();
  }
  void add(std::int32_t id, std::int32_t parent, float chance) {
    ids.push_back(id);
    parents.push_back(parent);
    chances.push_back(chance);
  }
};

struct DraftLimits {
  std::int64_t nodes = 0;   // most nodes
  std::int64_t depth = 0;   // longest path
  bool tree = false;        // whether the model takes branches; otherwise the draft must be a chain
  double pass_seconds = 0;  // what a plain pass takes here; 0 = unknown
};

// Guesses from the text so far, and from what it learned before. Deterministic: the same calls in the same order give equal drafts. For
// one thread.
class Drafter {
 public:
  virtual ~Drafter() = default;
  virtual const char* name() const = 0;

  // A text begins with these tokens, which have run. observe() follows before the first propose().
  virtual void begin(std::span<const std::int32_t> tokens) = 0;
  // Tokens that were added to the text, the last of them not run yet.
  virtual void observe(std::span<const std::int32_t> tokens) = 0;
  // Fills `draft`, which is empty, within the limits; leaves it empty where it has no guess. After warm-up it does not allocate.
  virtual void propose(const DraftLimits& limits, Draft& draft) = 0;
  // For drafters that guess with the model itself: how many mask tokens should follow a row, given what a pass of that many rows costs
  // in units of one row; 0 = none. Their latents, float32 [masks, D], of the row where the text stopped come back by latents(), which is
  // called with nothing where that row had none. Models whose rows have latents of their own give those, float32 [L].
  virtual std::int64_t masks(const std::function<double(std::int64_t)>&) { return 0; }
  virtual void latents(std::span<const float>) {}
  // Tokens that a draft is expected to bring, where the drafter knows; a draft that takes longer than that is left out.
  virtual double worth() const { return std::numeric_limits<double>::infinity(); }
  // The same of the draft that latents of masks would make, beyond what would be guessed without them.
  virtual double mask_worth() const { return worth(); }
  // What became of the nodes that ran: `ran` of them, numbered by `nodes` (ascending, closed under parents), and those among them
  // that were accepted, `path` (a path from the root; may be empty). Called before the observe() of the tokens.
  virtual void verified(const Draft& draft, std::span<const std::int32_t> nodes,
                        std::span<const std::int32_t> path) = 0;
};

}  // namespace farthing
