#include "drawer.h"

#include <algorithm>
#include <array>

#include "clock.h"
#include "draw_request.h"
#include "error.h"
#include "tensors.h"

namespace farthing::drawing {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Logits of the images that are drawn together take this many floats (256 MiB) at most, and their caches what so many images take.
constexpr std::int64_t kMostLogits = std::int64_t{1} << 26, kMostTogether = 64;

const std::filesystem::path& graph_of(const DrawingBundle& bundle, const std::string& name) {
  static const std::filesystem::path none;
  const auto found = bundle.graphs.find(name);
  return found == bundle.graphs.end() ? none : found->second;
}

StepShape step_shape(const DrawingBundle& bundle) {
  StepShape shape;
  shape.layers = bundle.layers, shape.heads = bundle.heads, shape.head_dim = bundle.head_dim;
  shape.codes = bundle.image.codes, shape.per_step = bundle.image.per_step, shape.hidden_size = bundle.hidden_size;
  shape.below = bundle.image.sequence == Sequence::diagonal;
  if (bundle.image.drafts == "eagle") shape.features_out = tensors::kFeatures;
  return shape;
}

StepShape draft_shape(const DrawingBundle& bundle) {
  StepShape shape = step_shape(bundle);
  shape.layers = 1;
  shape.features_in = true;
  shape.features_out = tensors::kFeaturesOut;
  return shape;
}

// ONNX Runtime is loaded before the first session.
const OrtOptions& loaded(const OrtOptions& options) {
  if (options.threads < 0 || options.threads > 1024) {
    refuse(Status::request, "threads", std::to_string(options.threads), "0 (all cores) to 1024",
           "choose another number");
  }
  load_onnxruntime(options.onnxruntime);
  return options;
}

}  // namespace

// Images that grow together.
struct Drawer::Batch {
  std::int64_t first = 0, count = 0;  // of the request's images
  std::int64_t halves = 1;            // 2 with guidance: the second half of the rows is without the condition
  std::span<const float> embeds;      // rows of a text condition, float32 [halves * count, text_rows, D]
  std::vector<std::int64_t> drawn;    // [count, draws]
  std::vector<std::int64_t> positions;
  std::int64_t turn = 0;  // how many turns are drawn
  Drafts drafts;          // that the last pass was over, behind the last code
  Stream stream;

  std::int64_t rows() const { return halves * count; }
};

Drawer::Drawer(const std::filesystem::path& path, const OrtOptions& options)
    : bundle_(open_drawing_bundle(path, options.hashes)),
      options_(loaded(options)),
      order_(bundle_.image),
      step_(graph_of(bundle_, tensors::kArStep), bundle_.texts ? graph_of(bundle_, tensors::kArPrefill) : "",
            step_shape(bundle_), Work::steady, options_),
      sampler_(graph_of(bundle_, tensors::kSample), bundle_.image.codes, options_),
      pixels_(bundle_, options_) {
  if (bundle_.image.drafts == "eagle") {
    draft_step_.emplace(graph_of(bundle_, tensors::kDraftStep), "", draft_shape(bundle_), Work::seldom, options_);
  }
  for (const std::string& mode : bundle_.image.accept) {
    acceptors_[mode] = std::make_unique<Acceptor>(graph_of(bundle_, tensors::kAccept + mode), bundle_.image.codes,
                                                  bundle_.image.tokens(), options_);
  }
  if (!bundle_.texts) return;
  condition_.emplace(graph_of(bundle_, tensors::kCondition), options_, Work::seldom);
  text_width_ = condition_->need_input(tensors::kTextEmbeds, type_of<float>(), {-1, -1, -1})[2];
  if (text_width_ < 1) {
    refuse(Status::bundle, "width of text_embeds of graph condition", "open", "fixed", "export the bundle again");
  }
  condition_->need_output(tensors::kEmbeds, type_of<float>(), {-1, -1, bundle_.hidden_size});
  condition_->no_other_inputs();
  bundle_.unconditional = condition_->has_output(tensors::kUncondEmbeds);
}

std::int64_t Drawer::most_together() const {
  return std::clamp<std::int64_t>(kMostLogits / (2 * order_.most_draws() * bundle_.image.codes), 1, kMostTogether);
}

// Rows of the condition float32 [halves, B, text_rows, D] of all texts.
std::vector<float> Drawer::condition_rows(const Wish& wish, bool guided) {
  const std::int64_t rows = wish.text_rows, width = bundle_.hidden_size;
  const std::size_t half = size(wish.count * rows * width);
  std::vector<float> made(guided ? 2 * half : half);
  condition_->forget();
  condition_->run({wish.count, rows, guided, 0}, [&](Binder& binder) {
    binder.in(tensors::kTextEmbeds, const_cast<float*>(wish.texts.data()), {wish.count, rows, text_width_});
    binder.out(tensors::kEmbeds, made.data(), {wish.count, rows, width});
    if (guided) binder.out(tensors::kUncondEmbeds, made.data() + half, {wish.count, rows, width});
  });
  condition_->forget();
  return made;
}

std::unique_ptr<Drafter> Drawer::drafter(const Plan& plan) {
  const ImageCodes& image = bundle_.image;
  if (image.drafts == "jacobi") return std::make_unique<Jacobi>(image.codes, plan.length);
  const std::int64_t halves = plan.guidance.guided() ? 2 : 1;
  draft_step_->begin(halves, 1 + image.tokens(), 1 + plan.length, 1);
  const bool point = std::find(image.certain.begin(), image.certain.end(), plan.mode) != image.certain.end();
  return std::make_unique<Eagle>(
      *draft_step_, sampler_,
      Eagle::How{image.codes, bundle_.hidden_size, image.tokens(), plan.length, point, plan.guidance, plan.warp});
}

Drawn Drawer::draw(const Wish& wish, const DrawOptions& options, const Progress& progress) {
  const double start = wall_seconds();
  const Plan plan = this->plan(wish, options);
  cancelled_ = false;
  const auto model_seconds = [&] { return step_.seconds() + (draft_step_ ? draft_step_->seconds() : 0); };
  const auto choosing_seconds = [&] {
    return sampler_.seconds() + (plan.plain() ? 0 : acceptors_.at(plan.mode)->seconds());
  };
  const double model_before = model_seconds(), choosing_before = choosing_seconds();
  const std::int64_t together = plan.plain() ? std::min(wish.count, most_together()) : 1;
  const std::int64_t halves = plan.guidance.guided() ? 2 : 1,
                     rows = plan.plain() ? order_.most_rows() : 1 + plan.length;
  const std::int64_t condition = bundle_.texts ? wish.text_rows : 1;
  const std::int64_t most_rows = std::max({rows, condition, plan.prefix_codes});
  const std::int64_t wanted = plan.plain() && !order_.diagonal() ? 1 : rows;
  const std::int64_t tokens = bundle_.image.tokens();

  Drawn made;
  made.decode = plan.mode;
  made.codes.resize(size(wish.count * tokens));
  std::vector<float> embeds;
  if (bundle_.texts) embeds = condition_rows(wish, halves == 2);
  std::vector<float> own_embeds;
  const std::unique_ptr<Drafter> guessing = plan.plain() ? nullptr : drafter(plan);
  Acceptor* const acceptor = plan.plain() ? nullptr : acceptors_.at(plan.mode).get();
  Batch batch;
  batch.halves = halves;
  batch.positions.reserve(size(std::max(most_rows, condition)));
  for (batch.first = 0; batch.first < wish.count && made.finished; batch.first += batch.count) {
    batch.count = std::min(together, wish.count - batch.first);
    step_.begin(batch.rows(), condition + order_.rows(), most_rows, wanted);
    const std::int64_t draws = plan.plain() ? batch.count * order_.most_draws() : 1 + plan.length;
    sampler_.begin(draws, plan.plain() ? 0 : draws);
    if (order_.diagonal()) mixed_.resize(size(batch.rows() * order_.most_draws() * bundle_.image.codes));
    if (bundle_.texts) {
      const std::size_t each = size(wish.text_rows * bundle_.hidden_size);
      own_embeds.clear();
      for (std::int64_t half = 0; half < halves; ++half) {
        const auto from = embeds.begin() + static_cast<std::ptrdiff_t>(size(half * wish.count + batch.first) * each);
        own_embeds.insert(own_embeds.end(), from, from + static_cast<std::ptrdiff_t>(size(batch.count) * each));
      }
      batch.embeds = own_embeds;
    }
    batch.drawn.assign(size(batch.count * order_.draws()), 0);
    made.finished =
        draw_batch(plan, batch, guessing.get(), acceptor, made, progress, batch.first * tokens, wish.count * tokens);
    made.passes += step_.passes();
    if (!plan.plain()) made.image_passes.push_back(step_.passes());
    for (std::int64_t i = 0; i < batch.count; ++i) {
      order_.place(std::span(batch.drawn).subspan(size(i * order_.draws()), size(order_.draws())),
                   std::span(made.codes).subspan(size((batch.first + i) * tokens), size(tokens)));
    }
  }
  made.model_seconds = model_seconds() - model_before;
  made.choosing_seconds = choosing_seconds() - choosing_before;
  made.total_seconds = wall_seconds() - start;
  return made;
}

// The one loop: draw what the last pass says, or judge the drafts that it was over; guess; run. False if it was ended early.
bool Drawer::draw_batch(const Plan& plan, Batch& batch, Drafter* drafter, Acceptor* acceptor, Drawn& made,
                        const Progress& progress, std::int64_t before, std::int64_t all) {
  const std::int64_t turns = static_cast<std::int64_t>(order_.turns().size());
  begin(plan, batch);
  if (drafter) {
    batch.stream = Stream(plan.seed + static_cast<std::uint64_t>(batch.first), 1);  // number 0 draws code 0
  }
  for (;;) {
    if (batch.drafts.ids.empty()) {
      sample_turn(plan, batch);
      if (drafter) drafter->begin(step_, batch.drawn[0]);
    } else {
      judge_drafts(plan, batch, *drafter, *acceptor, made);
    }
    const std::int64_t done = before + batch.count * order_.turns()[size(batch.turn - 1)].codes;
    const bool heard = !progress || progress(done, all);
    if (batch.turn == turns) return heard || done == all;
    if (!heard || cancelled_) return false;
    if (drafter) {
      const std::int64_t known = batch.turn;  // turns are codes where there are drafts
      batch.drafts = drafter->propose(std::min(plan.length, turns - known), known, batch.stream);
    }
    feed(batch, batch.turn - 1, batch.turn);
  }
}

// The condition's pass, and that over given codes.
void Drawer::begin(const Plan& plan, Batch& batch) {
  batch.turn = 0;
  batch.drafts = {};
  const std::int64_t v = bundle_.image.codes, rows = bundle_.texts ? plan.wish.text_rows : 1;
  batch.positions.clear();
  for (std::int64_t i = 0; i < rows; ++i) batch.positions.push_back(bundle_.condition_rows - rows + i);
  if (bundle_.texts) {
    step_.prefill(batch.positions, batch.embeds);
  } else {
    const auto ids = step_.ids(1);
    std::fill(ids.begin(), ids.end(), 0);
    for (std::int64_t i = 0; i < batch.rows(); ++i) {
      const bool with = i < batch.count;
      const std::int64_t label = with ? plan.wish.classes[size(batch.first + i)] : bundle_.image.classes;
      ids[size(i * bundle_.image.per_step)] = v + label;
    }
    step_.run(batch.positions, 1, false);
  }
  if (plan.prefix_codes == 0) return;
  batch.turn = plan.prefix_codes;
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const auto given = plan.prefix.subspan(size((batch.first + i) * plan.prefix_codes), size(plan.prefix_codes));
    order_.split(
        given,
        std::span(batch.drawn).subspan(size(i * order_.draws()), size(plan.prefix_codes * bundle_.image.per_step)));
  }
  feed(batch, 0, batch.turn);
}

// Runs turns `first` to `last` - 1, and behind them the drafts.
void Drawer::feed(Batch& batch, std::int64_t first, std::int64_t last) {
  const Turn &from = order_.turns()[size(first)], &to = order_.turns()[size(last - 1)];
  const std::int64_t known = to.row + to.rows - from.row, drafts = static_cast<std::int64_t>(batch.drafts.ids.size());
  const std::int64_t rows = known + drafts, draws = to.first + to.draws - from.first;
  batch.positions.clear();
  for (std::int64_t i = 0; i < rows; ++i) {
    batch.positions.push_back(bundle_.condition_rows + order_.position(from.row + i));
  }
  const auto ids = step_.ids(rows);
  const std::size_t each = size(rows * bundle_.image.per_step);
  for (std::int64_t i = 0; i < batch.rows(); ++i) {
    const auto own = std::span(batch.drawn).subspan(size((i % batch.count) * order_.draws() + from.first), size(draws));
    const auto end = std::copy(own.begin(), own.end(), ids.begin() + static_cast<std::ptrdiff_t>(size(i) * each));
    std::copy(batch.drafts.ids.begin(), batch.drafts.ids.end(), end);
  }
  const std::int64_t wanted = drafts ? rows : order_.diagonal() ? to.rows : 1;
  step_.run(batch.positions, wanted, order_.diagonal());
}

void Drawer::sample_turn(const Plan& plan, Batch& batch) {
  const Turn& turn = order_.turns()[size(batch.turn)];
  const std::int64_t rows = batch.count * turn.draws, v = bundle_.image.codes, tokens = bundle_.image.tokens();
  std::span<const float> logits = step_.logits();
  if (order_.diagonal()) {
    const auto before = static_cast<std::int64_t>(logits.size()) / (batch.rows() * v);
    const auto mixed = std::span(mixed_).first(size(batch.halves * rows * v));
    mix_diagonal(logits, step_.below(), batch.rows(), before, v, batch.turn, bundle_.image.grid, mixed);
    logits = mixed;
  }
  const auto scales = sampler_.scales(rows), numbers = sampler_.uniforms(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t n = turn.first + i % turn.draws;
    const std::uint64_t seed = plan.seed + static_cast<std::uint64_t>(batch.first + i / turn.draws);
    scales[size(i)] = plan.guidance.at(order_.number(n), tokens);
    numbers[size(i)] = uniform(seed, static_cast<std::uint64_t>(n));
  }
  const auto ids = sampler_.draw(logits.first(size(rows * v)), logits.last(size(rows * v)), rows, plan.warp, false);
  for (std::int64_t i = 0; i < batch.count; ++i) {
    std::copy_n(ids.begin() + i * turn.draws, turn.draws, batch.drawn.begin() + i * order_.draws() + turn.first);
  }
  ++batch.turn;
}

void Drawer::judge_drafts(const Plan& plan, Batch& batch, Drafter& drafter, Acceptor& acceptor, Drawn& made) {
  const std::int64_t length = static_cast<std::int64_t>(batch.drafts.ids.size()), rows = 1 + length;
  const std::int64_t v = bundle_.image.codes, tokens = bundle_.image.tokens(), known = batch.turn;
  const auto scales = sampler_.scales(rows), none = sampler_.uniforms(rows);
  for (std::int64_t i = 0; i < rows; ++i) scales[size(i)] = plan.guidance.at(known + i, tokens);
  std::fill(none.begin(), none.end(), 0.0f);
  const auto logits = step_.logits();
  sampler_.draw(logits.first(size(rows * v)), logits.last(size(rows * v)), rows, plan.warp, true);
  const auto p = sampler_.probs().first(size(rows * v));
  for (float& number : acceptor.uniforms(length)) number = batch.stream.next();
  const Verdict verdict = acceptor.judge(p, batch.drafts.q, batch.drafts.ids);

  Account& account = made.account;
  ++account.rounds;
  account.accepted += verdict.accepted;
  const std::int64_t reached = std::min(verdict.accepted + 1, length);
  account.judged += reached;
  for (std::int64_t i = 0; i < reached; ++i) {
    const std::size_t at = size(i * v + batch.drafts.ids[size(i)]);
    const double px = static_cast<double>(p[at]), qx = static_cast<double>(batch.drafts.q[at]);
    const double chance = static_cast<double>(acceptor.chances()[size(i)]);
    const double excess = chance - (qx > 0 ? std::min(1.0, px / qx) : 0.0);
    account.chance += chance;
    (excess > 0 ? account.above : account.below) += excess > 0 ? excess : -excess;
  }
  // The pass wrote the last code and the drafts; the slots of those refused are written again.
  step_.rewind(step_.past() - length + verdict.accepted);
  const auto to = batch.drawn.begin() + known;
  std::copy_n(batch.drafts.ids.begin(), verdict.accepted, to);
  batch.turn = known + verdict.accepted;
  if (batch.turn == tokens) return;
  *(to + verdict.accepted) = verdict.next;
  ++batch.turn;
  if (batch.turn == tokens) return;
  drafter.hear(step_, p, std::span(batch.drawn).subspan(size(known), size(verdict.accepted + 1)), batch.stream);
}

}  // namespace farthing::drawing
