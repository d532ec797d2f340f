// farthing.h over Engine: no exception leaves, every struct is read only as far as its caller's size says.
#include <algorithm>
#include <cstring>
#include <optional>

#include "../include/farthing.h"
#include "capi_support.h"
#include "engine.h"
#include "error.h"
#include "text_stream.h"

using farthing::Status;
using namespace farthing::capi;

struct farthing_engine {
  farthing::Engine engine;
  std::optional<farthing::Tokenizer> tokenizer;  // read at the first call that needs it

  farthing_engine(const char* path, const farthing::EngineOptions& options) : engine(path, options) {}

  const farthing::Tokenizer& need_tokenizer() {
    if (!tokenizer) {
      const auto& file = engine.bundle().tokenizer;
      if (!file) {
        farthing::refuse(Status::bundle, "tokenizer of " + engine.bundle().path.string(), "missing", "a tokenizer.json",
                         "use the calls that take token ids");
      }
      tokenizer = farthing::Tokenizer::from_file(*file);
    }
    return *tokenizer;
  }
};

namespace {

farthing::GenerateOptions options_of(const farthing_generation& how, const farthing::Bundle& bundle) {
  farthing::GenerateOptions options;
  options.max_new_tokens = how.max_new_tokens;
  options.sampler = {how.temperature, how.top_k, how.top_p, how.min_p, how.repetition_penalty, how.seed};
  if (!how.ignore_eos) options.stop_ids = bundle.eos_ids;
  if (how.stop_id_count) need(how.stop_ids, "stop_ids");
  options.stop_ids.insert(options.stop_ids.end(), how.stop_ids, how.stop_ids + how.stop_id_count);
  options.reuse_prefix = how.reuse_prefix != 0;
  options.restart_window = how.restart_window;
  options.speculate = how.plain == 0;
  return options;
}

std::vector<farthing::ImageInput> images_of(const farthing_image* images, std::size_t count) {
  if (count) need(images, "images");
  std::vector<farthing::ImageInput> all;
  for (std::size_t i = 0; i < count; ++i) {
    const farthing_image* following = next_struct(images, "an image", "FARTHING_IMAGE_INIT");
    const farthing_image each = taken(images, farthing_image FARTHING_IMAGE_INIT);
    all.push_back({{each.rgb, each.height, each.width, each.stride ? each.stride : 3 * each.width},
                   each.level ? each.level : ""});
    images = following;
  }
  return all;
}

farthing_result result_of(const farthing::Generation& made) {
  farthing_result result = FARTHING_RESULT_INIT;
  result.stop = static_cast<farthing_stop>(made.reason);
  const farthing::Stats& s = made.stats;
  result.prompt_tokens = s.prompt_tokens;
  result.new_tokens = s.new_tokens;
  result.passes = s.passes;
  result.rows = s.rows;
  result.prefill_seconds = s.prefill_seconds;
  result.decode_seconds = s.decode_seconds;
  result.first_token_seconds = s.first_token_seconds;
  result.prefill_cpu_seconds = s.prefill_cpu_seconds;
  result.decode_cpu_seconds = s.decode_cpu_seconds;
  result.model_seconds = s.model_seconds;
  result.restarts = s.restarts;
  result.drafts = s.speculation.drafts;
  result.drafted = s.speculation.drafted;
  result.accepted = s.speculation.accepted;
  result.draft_seconds = s.speculation.draft_seconds;
  result.judged = s.speculation.judged;
  result.images = s.vision.images;
  result.images_encoded = s.vision.encoded;
  result.image_cache_hits = s.vision.cache_hits;
  result.visual_rows_before = s.vision.rows_before;
  result.visual_rows_after = s.vision.rows_after;
  result.vision_seconds = s.vision.seconds;
  return result;
}

static_assert(static_cast<int>(farthing::StopReason::length) == FARTHING_STOP_LENGTH);
static_assert(static_cast<int>(farthing::StopReason::cancelled) == FARTHING_STOP_CANCELLED);

}  // namespace

const char* farthing_last_error(void) { return last_error().c_str(); }
const char* farthing_version(void) { return FARTHING_VERSION; }

farthing_status farthing_open(const char* bundle, const farthing_options* options, farthing_engine** engine) {
  return guarded([&] {
    need(engine, "engine");
    *engine = nullptr;
    need(bundle, "bundle");
    const farthing_options given = taken(options, farthing_options FARTHING_OPTIONS_INIT);
    farthing::EngineOptions made;
    made.hashes = !given.skip_hashes;
    made.backend.threads = given.threads;
    made.backend.capacity = given.context;
    if (given.chunk) made.backend.chunk = given.chunk;
    if (given.onnxruntime) made.backend.onnxruntime = given.onnxruntime;
    made.tensorrt = given.tensorrt != 0;
    made.cuda_graphs = given.cuda_graphs != 0;
    made.draft.name = given.draft ? given.draft : "tuned";
    if (given.draft_table) made.draft.table = given.draft_table;
    if (given.draft_rows) made.draft.how.nodes = made.draft.how.depth = given.draft_rows;
    if (given.draft_bundle) made.draft.bundle = given.draft_bundle;
    made.draft.how.judge = given.no_judge == 0;
    if (given.image_cache) made.image_cache_bytes = std::max<std::int64_t>(given.image_cache, 0);
    made.backend.ops_library = given.ops_library ? given.ops_library : ops_beside();
    *engine = new farthing_engine(bundle, made);
  });
}

void farthing_close(farthing_engine* engine) { delete engine; }

int64_t farthing_context(const farthing_engine* e) { return e ? e->engine.capacity() : 0; }
int64_t farthing_vocab_size(const farthing_engine* e) { return e ? e->engine.bundle().vocab_size : 0; }
int64_t farthing_length(const farthing_engine* e) { return e ? static_cast<int64_t>(e->engine.tokens().size()) : 0; }

farthing_status farthing_encode(farthing_engine* engine, const char* text, int32_t parse_special, int32_t* ids,
                                size_t capacity, size_t* count) {
  return guarded([&] {
    need(engine, "engine");
    need(text, "text");
    need(count, "count");
    if (capacity) need(ids, "ids");
    const auto all = engine->need_tokenizer().encode(text, false, parse_special != 0);
    *count = all.size();
    std::copy_n(all.begin(), std::min(capacity, all.size()), ids);
  });
}

farthing_status farthing_decode(farthing_engine* engine, const int32_t* ids, size_t count, char* text, size_t capacity,
                                size_t* bytes) {
  return guarded([&] {
    need(engine, "engine");
    need(bytes, "bytes");
    if (count) need(ids, "ids");
    if (capacity) need(text, "text");
    const std::string all = engine->need_tokenizer().decode({ids, count});
    *bytes = all.size();
    if (capacity == 0) return;
    const std::size_t fits = std::min(capacity - 1, all.size());
    std::memcpy(text, all.data(), fits);
    text[fits] = '\0';
  });
}

farthing_status farthing_prefill(farthing_engine* engine, const int32_t* ids, size_t count) {
  return guarded([&] {
    need(engine, "engine");
    if (count) need(ids, "ids");
    engine->engine.prefill({ids, count});
  });
}

farthing_status farthing_logits(farthing_engine* engine, const float** logits, size_t* count) {
  return guarded([&] {
    need(engine, "engine");
    need(logits, "logits");
    need(count, "count");
    const auto all = engine->engine.logits();
    *logits = all.data();
    *count = all.size();
  });
}

farthing_status farthing_extend(farthing_engine* engine, const int32_t* ids, size_t count, const float** logits) {
  return guarded([&] {
    need(engine, "engine");
    need(logits, "logits");
    if (count) need(ids, "ids");
    *logits = engine->engine.extend({ids, count}).data();
  });
}

farthing_status farthing_rewind(farthing_engine* engine, int64_t length) {
  return guarded([&] {
    need(engine, "engine");
    engine->engine.rewind(length);
  });
}

farthing_status farthing_generate(farthing_engine* engine, const int32_t* prompt, size_t count,
                                  const farthing_generation* how, farthing_on_token on_token, void* user,
                                  farthing_result* result) {
  return farthing_generate_images(engine, prompt, count, nullptr, 0, how, on_token, user, result);
}

farthing_status farthing_generate_images(farthing_engine* engine, const int32_t* prompt, size_t count,
                                         const farthing_image* images, size_t image_count,
                                         const farthing_generation* how, farthing_on_token on_token, void* user,
                                         farthing_result* result) {
  return guarded([&] {
    need(engine, "engine");
    if (count) need(prompt, "prompt");
    const auto given = taken(how, farthing_generation FARTHING_GENERATION_INIT);
    std::function<bool(std::int32_t)> callback;
    if (on_token) callback = [&](std::int32_t id) { return on_token(user, id) != 0; };
    const auto shown = images_of(images, image_count);
    give(result, result_of(engine->engine.generate({prompt, count}, options_of(given, engine->engine.bundle()),
                                                   callback, shown)));
  });
}

farthing_status farthing_generate_all(farthing_engine* engine, const int32_t* const* prompts, const size_t* counts,
                                      size_t count, const farthing_generation* how, size_t batch,
                                      farthing_on_token_of on_token, void* user, farthing_result* results) {
  return guarded([&] {
    need(engine, "engine");
    if (count) need(prompts, "prompts"), need(counts, "counts");
    std::vector<std::vector<std::int32_t>> texts(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (counts[i]) need(prompts[i], "a prompt");
      texts[i].assign(prompts[i], prompts[i] + counts[i]);
    }
    const auto given = options_of(taken(how, farthing_generation FARTHING_GENERATION_INIT), engine->engine.bundle());
    std::function<bool(std::size_t, std::int32_t)> callback;
    if (on_token) callback = [&](std::size_t i, std::int32_t id) { return on_token(user, i, id) != 0; };
    const auto most = static_cast<std::int64_t>(std::min<std::size_t>(batch, 1 << 20));
    const auto made = engine->engine.generate_all(texts, {&given, 1}, most, callback);
    for (std::size_t i = 0; results && i < count; ++i) {
      farthing_result* following = next_struct(results, "a result", "FARTHING_RESULT_INIT");
      give(results, result_of(made[i]));
      results = following;
    }
  });
}

farthing_status farthing_generate_text(farthing_engine* engine, const char* prompt, const farthing_generation* how,
                                       farthing_on_text on_text, void* user, farthing_result* result) {
  return farthing_generate_text_images(engine, prompt, nullptr, 0, how, on_text, user, result);
}

farthing_status farthing_generate_text_images(farthing_engine* engine, const char* prompt, const farthing_image* images,
                                              size_t image_count, const farthing_generation* how,
                                              farthing_on_text on_text, void* user, farthing_result* result) {
  return guarded([&] {
    need(engine, "engine");
    need(prompt, "prompt");
    need(reinterpret_cast<const void*>(on_text), "on_text");
    const auto given = taken(how, farthing_generation FARTHING_GENERATION_INIT);
    if (given.stop_string_count) need(given.stop_strings, "stop_strings");
    const farthing::Tokenizer& tokenizer = engine->need_tokenizer();
    farthing::TextStream stream(tokenizer, {given.stop_strings, given.stop_strings + given.stop_string_count});
    auto ids = tokenizer.encode(prompt, false, true);
    const farthing::Bundle& bundle = engine->engine.bundle();
    if (bundle.add_bos && bundle.bos_id) ids.insert(ids.begin(), *bundle.bos_id);
    const auto shown = images_of(images, image_count);
    bool refused = false;
    const auto say = [&](const std::string& text) {
      if (!text.empty() && !refused) refused = on_text(user, text.c_str(), text.size()) == 0;
    };
    auto made = result_of(engine->engine.generate(
        ids, options_of(given, bundle),
        [&](std::int32_t id) {
          say(stream.push(id));
          return !refused && !stream.stopped();
        },
        shown));
    say(stream.finish());
    if (stream.stopped()) made.stop = FARTHING_STOP_STRING;
    give(result, made);
  });
}

void farthing_cancel(farthing_engine* engine) {
  if (engine) engine->engine.cancel();
}

farthing_status farthing_save_state(farthing_engine* engine, const char* path) {
  return guarded([&] {
    need(engine, "engine");
    need(path, "path");
    engine->engine.save_state(path);
  });
}

farthing_status farthing_load_state(farthing_engine* engine, const char* path) {
  return guarded([&] {
    need(engine, "engine");
    need(path, "path");
    engine->engine.load_state(path);
  });
}
