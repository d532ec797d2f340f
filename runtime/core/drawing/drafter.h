// Who guesses the next codes of an image: the model itself a pass ago (Jacobi), or a drafter of one layer (EAGLE).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "chooser.h"
#include "guidance.h"
#include "step.h"
#include "uniforms.h"

namespace farthing::drawing {

// Guessed codes int64 [L] and the distributions float32 [L,V] that they were drawn from; valid until the drafter is called again.
struct Drafts {
  std::span<const std::int64_t> ids;
  std::span<const float> q;
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // Of an image: the condition pass of `model` was run, and code 0 is `code`.
  virtual void begin(const Step& model, std::int64_t code) = 0;
  // `length` codes from code `number` on.
  virtual Drafts propose(std::int64_t length, std::int64_t number, Stream& stream) = 0;
  // The pass of `model` over the last code and the drafts gave the distributions `p` float32 [L+1,V]; `fresh` codes followed: the
  // accepted drafts, and one more.
  virtual void hear(const Step& model, std::span<const float> p, std::span<const std::int64_t> fresh,
                    Stream& stream) = 0;
};

// Speculative Jacobi decoding (Teng et al. 2025): a place's draft is drawn from what the last pass said there. That pass saw drafts before
// it which may have been refused since, so its distribution is q and no more. A place that no pass has seen gets any code, as a certain guess.
class Jacobi final : public Drafter {
 public:
  Jacobi(std::int64_t codes, std::int64_t most);
  void begin(const Step& model, std::int64_t code) override;
  Drafts propose(std::int64_t length, std::int64_t number, Stream& stream) override;
  void hear(const Step& model, std::span<const float> p, std::span<const std::int64_t> fresh, Stream& stream) override;

 private:
  std::size_t codes_;
  std::vector<std::int64_t> ids_;
  std::vector<float> q_;
  std::size_t kept_ = 0;    // drafts of the window that the next round begins with
  std::size_t length_ = 0;  // of the last round
};

// EAGLE's drafter (Li et al. 2024) on an image model (Jang et al. 2025): one layer over the model's features and the code behind each.
class Eagle final : public Drafter {
 public:
  struct How {
    std::int64_t codes = 0, hidden_size = 0, tokens = 0, most = 0;
    bool point = false;  // always its best code, as a certain guess; else drawn from what it says
    Guidance guidance;
    Warp warp;
  };
  // `step` is the drafter's own graph and `sampler` the image's; both outlive it.
  Eagle(Step& step, Sampler& sampler, const How& how);
  void begin(const Step& model, std::int64_t code) override;
  Drafts propose(std::int64_t length, std::int64_t number, Stream& stream) override;
  void hear(const Step& model, std::span<const float> p, std::span<const std::int64_t> fresh, Stream& stream) override;

 private:
  void feed(const Step& source, std::int64_t rows, bool last);
  void run(std::int64_t rows);

  Step& step_;
  Sampler& sampler_;
  How how_;
  std::vector<std::int64_t> ids_, pending_, positions_;
  std::vector<float> q_;
};

}  // namespace farthing::drawing
