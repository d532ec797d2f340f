#include "ort_draft_chain.h"

#include <algorithm>

#include "error.h"
#include "ort_session.h"
#include "tensors.h"

namespace farthing {

OrtDraftChain::OrtDraftChain(const Bundle& bundle, const OrtOptions& options)
    : session_(ort_environment(), bundle.draft_chain.c_str(), ort_session_options([&] {
                 OrtOptions how = options;
                 how.optimised = false;  // the compiled graph is the step's
                 return how;
               }())),
      latents_(static_cast<std::size_t>(bundle.masks > 0 ? bundle.masks * bundle.hidden_size : bundle.row_latents)),
      chances_(static_cast<std::size_t>(bundle.drafts)),
      draft_(chances_.size()),
      binding_(session_) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto view = [&]<class T>(T* data, std::size_t count, std::vector<std::int64_t> dims) {
    return Ort::Value::CreateTensor<T>(memory, data, count, dims.data(), dims.size());
  };
  const auto in = [&](const std::string& name, Ort::Value value) {
    binding_.BindInput(name.c_str(), value);
    values_.push_back(std::move(value));
  };
  const auto out = [&](const std::string& name, Ort::Value value) {
    binding_.BindOutput(name.c_str(), value);
    values_.push_back(std::move(value));
  };
  in(tensors::kFirstToken, view(&first_, 1, {1}));
  if (bundle.masks > 0) {
    in(tensors::kMaskLatents, view(latents_.data(), latents_.size(), {1, bundle.masks, bundle.hidden_size}));
  } else {
    in(tensors::kRowLatents, view(latents_.data(), latents_.size(), {1, bundle.row_latents}));
  }
  out(tensors::kDraft, view(draft_.data(), draft_.size(), {1, bundle.drafts}));
  out(tensors::kDraftChance, view(chances_.data(), chances_.size(), {1, bundle.drafts}));
}

void OrtDraftChain::run(std::int32_t first, std::span<const float> latents, std::span<std::int32_t> ids,
                        std::span<float> chances) {
  first_ = first;
  std::copy(latents.begin(), latents.end(), latents_.begin());
  std::fill(latents_.begin() + static_cast<std::ptrdiff_t>(latents.size()), latents_.end(), 0.0f);
  try {
    session_.Run(run_options_, binding_);
  } catch (const Ort::Exception& error) {
    throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(draft_[i]);
    chances[i] = chances_[i];
  }
}

}  // namespace farthing
