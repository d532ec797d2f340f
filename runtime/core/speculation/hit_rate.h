// How often guesses of one kind come true.
#pragma once

namespace farthing {

// How often guesses come true, by a small key: an exponentially forgetting mean that drifts back to its prior while it is not observed,
// so that a key that was given up is tried again.
class HitRate {
 public:
  HitRate() = default;
  HitRate(float prior, float weight) : prior_(prior), mean_(prior), weight_(weight) {}

  float mean() const { return mean_; }
  void saw(bool hit) {
    weight_ = weight_ < kMemory ? weight_ + 1 : kMemory;
    mean_ += ((hit ? 1.0f : 0.0f) - mean_) / weight_;
  }
  // Called when the rate was asked for and its guess did not run.
  void idle() { mean_ += (prior_ - mean_) * kDrift; }

 private:
  static constexpr float kMemory = 48;         // observations
  static constexpr float kDrift = 1.0f / 512;  // of the way back, each time
  float prior_ = 0.5f, mean_ = 0.5f, weight_ = 4;
};

}  // namespace farthing
