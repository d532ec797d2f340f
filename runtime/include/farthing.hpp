// C++ over farthing.h: RAII, std::string, and errors as exceptions. Header only.
//
//   farthing::Runtime runtime("build/smollm2");
//   runtime.generate("The capital of France is", {}, [](std::string_view text) { std::cout << text; return true; });
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "farthing.h"

namespace farthing {

// What the C interface reported: status() and the sentence.
class RuntimeError : public std::runtime_error {
 public:
  explicit RuntimeError(farthing_status status) : std::runtime_error(farthing_last_error()), status_(status) {}
  farthing_status status() const { return status_; }

 private:
  farthing_status status_;
};

// How to generate: greedy unless temperature is set. Same meaning as the fields of farthing_generation.
struct Sampling {
  std::int64_t max_new_tokens = 128;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1, min_p = 0, repetition_penalty = 1;
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_ids;
  std::vector<std::string> stop;
  bool ignore_eos = false, reuse_prefix = false;
  std::int64_t restart_window = 0;
};

// An image of a prompt: uint8 red, green, blue, rows from the top, not owned. `stride`: bytes from a row to the next, 0 = 3 * width.
// `level`: how many of its rows stay, as the bundle names it; empty = the bundle's own choice.
struct Picture {
  const std::uint8_t* rgb = nullptr;
  std::int64_t height = 0, width = 0, stride = 0;
  std::string level;
};

// An open bundle with one sequence. Movable; for one thread at a time, except cancel().
class Runtime {
 public:
  explicit Runtime(const std::string& bundle, farthing_options options = FARTHING_OPTIONS_INIT) {
    farthing_engine* engine = nullptr;
    check(farthing_open(bundle.c_str(), &options, &engine));
    engine_.reset(engine);
  }

  // Streams text; `on_text` gets whole characters and ends the generation by returning false.
  farthing_result generate(const std::string& prompt, const Sampling& how,
                           const std::function<bool(std::string_view)>& on_text) {
    return generate(prompt, {}, how, on_text);
  }

  // The same with images, whose marker ("<image>") the prompt has once for each.
  farthing_result generate(const std::string& prompt, const std::vector<Picture>& pictures, const Sampling& how,
                           const std::function<bool(std::string_view)>& on_text) {
    farthing_result result = FARTHING_RESULT_INIT;
    const Native native(how);
    const std::vector<farthing_image> images = native_images(pictures);
    Relay relay{&on_text, nullptr};
    check(farthing_generate_text_images(
        engine_.get(), prompt.c_str(), images.data(), images.size(), &native.how,
        [](void* user, const char* text, size_t bytes) -> int32_t {
          auto& to = *static_cast<Relay*>(user);
          try {
            return (*to.f)({text, bytes}) ? 1 : 0;
          } catch (...) {
            to.thrown = std::current_exception();
            return 0;
          }
        },
        &relay, &result));
    if (relay.thrown) std::rethrow_exception(relay.thrown);
    return result;
  }

  // Ids in, ids out.
  std::vector<std::int32_t> generate(const std::vector<std::int32_t>& prompt, const Sampling& how,
                                     farthing_result* result = nullptr) {
    return generate(prompt, {}, how, result);
  }

  // The same with images, whose id the prompt has once for each.
  std::vector<std::int32_t> generate(const std::vector<std::int32_t>& prompt, const std::vector<Picture>& pictures,
                                     const Sampling& how, farthing_result* result = nullptr) {
    const std::vector<farthing_image> images = native_images(pictures);
    std::vector<std::int32_t> ids;
    const Native native(how);
    // So that the callback cannot throw.
    const std::int64_t most = how.restart_window ? how.max_new_tokens : std::min(how.max_new_tokens, context());
    ids.reserve(static_cast<std::size_t>(std::max<std::int64_t>(most, 0)));
    check(farthing_generate_images(
        engine_.get(), prompt.data(), prompt.size(), images.data(), images.size(), &native.how,
        [](void* user, int32_t id) -> int32_t {
          static_cast<std::vector<std::int32_t>*>(user)->push_back(id);
          return 1;
        },
        &ids, result));
    return ids;
  }

  // Continues every prompt, at most `batch` in one pass; each as generate() would alone. reuse_prefix and restart_window must be off.
  std::vector<std::vector<std::int32_t>> generate_all(const std::vector<std::vector<std::int32_t>>& prompts,
                                                      const Sampling& how, std::size_t batch = 8) {
    std::vector<std::vector<std::int32_t>> all(prompts.size());
    std::vector<const std::int32_t*> ids;
    std::vector<std::size_t> counts;
    const Native native(how);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      ids.push_back(prompts[i].data());
      counts.push_back(prompts[i].size());
      // So that the callback cannot throw.
      all[i].reserve(static_cast<std::size_t>(std::max<std::int64_t>(std::min(how.max_new_tokens, context()), 0)));
    }
    check(farthing_generate_all(
        engine_.get(), ids.data(), counts.data(), prompts.size(), &native.how, batch,
        [](void* user, size_t prompt, int32_t id) -> int32_t {
          (*static_cast<std::vector<std::vector<std::int32_t>>*>(user))[prompt].push_back(id);
          return 1;
        },
        &all, nullptr));
    return all;
  }

  std::vector<std::int32_t> encode(const std::string& text, bool parse_special = true) {
    std::size_t count = 0;
    check(farthing_encode(engine_.get(), text.c_str(), parse_special, nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    check(farthing_encode(engine_.get(), text.c_str(), parse_special, ids.data(), ids.size(), &count));
    return ids;
  }

  std::string decode(const std::vector<std::int32_t>& ids) {
    std::size_t bytes = 0;
    check(farthing_decode(engine_.get(), ids.data(), ids.size(), nullptr, 0, &bytes));
    std::string text(bytes + 1, '\0');
    check(farthing_decode(engine_.get(), ids.data(), ids.size(), text.data(), text.size(), &bytes));
    text.resize(bytes);
    return text;
  }

  void prefill(const std::vector<std::int32_t>& ids) { check(farthing_prefill(engine_.get(), ids.data(), ids.size())); }
  std::vector<float> logits() {
    const float* data = nullptr;
    std::size_t count = 0;
    check(farthing_logits(engine_.get(), &data, &count));
    return {data, data + count};
  }
  // Logits of every appended token, [ids.size() * vocab]; keep the first a by rewind(length_before + a).
  std::vector<float> extend(const std::vector<std::int32_t>& ids) {
    const float* data = nullptr;
    check(farthing_extend(engine_.get(), ids.data(), ids.size(), &data));
    return {data, data + ids.size() * static_cast<std::size_t>(farthing_vocab_size(engine_.get()))};
  }
  void rewind(std::int64_t length) { check(farthing_rewind(engine_.get(), length)); }
  std::int64_t length() const { return farthing_length(engine_.get()); }
  std::int64_t context() const { return farthing_context(engine_.get()); }
  void cancel() { farthing_cancel(engine_.get()); }
  void save_state(const std::string& path) { check(farthing_save_state(engine_.get(), path.c_str())); }
  void load_state(const std::string& path) { check(farthing_load_state(engine_.get(), path.c_str())); }
  farthing_engine* get() { return engine_.get(); }

 private:
  struct Relay {
    const std::function<bool(std::string_view)>* f;
    std::exception_ptr thrown;
  };
  // The C struct and the pointers it needs, for the length of one call.
  struct Native {
    explicit Native(const Sampling& s) {
      for (const std::string& text : s.stop) stop.push_back(text.c_str());
      how.max_new_tokens = s.max_new_tokens;
      how.temperature = s.temperature;
      how.top_k = s.top_k;
      how.top_p = s.top_p;
      how.min_p = s.min_p;
      how.repetition_penalty = s.repetition_penalty;
      how.seed = s.seed;
      how.stop_ids = s.stop_ids.data();
      how.stop_id_count = s.stop_ids.size();
      how.stop_strings = stop.data();
      how.stop_string_count = stop.size();
      how.ignore_eos = s.ignore_eos;
      how.reuse_prefix = s.reuse_prefix;
      how.restart_window = s.restart_window;
    }
    std::vector<const char*> stop;
    farthing_generation how = FARTHING_GENERATION_INIT;
  };
  // They point into `pictures`.
  static std::vector<farthing_image> native_images(const std::vector<Picture>& pictures) {
    std::vector<farthing_image> images;
    for (const Picture& p : pictures) {
      images.push_back(
          {sizeof(farthing_image), p.height, p.width, p.rgb, p.stride, p.level.empty() ? nullptr : p.level.c_str()});
    }
    return images;
  }
  struct Close {
    void operator()(farthing_engine* engine) const { farthing_close(engine); }
  };
  static void check(farthing_status status) {
    if (status != FARTHING_OK) throw RuntimeError(status);
  }
  std::unique_ptr<farthing_engine, Close> engine_;
};

// How to draw. Same meaning as the fields of farthing_drawing.
struct Drawing {
  std::uint64_t seed = 0;
  double temperature = 1;
  std::int64_t top_k = 0;
  double top_p = 1;
  double guidance = -1;
  std::int64_t interval = -1;
  std::string schedule, decode;
  std::int64_t draft_length = 0;
};

// Images: codes [count, tokens], rgb uint8 [count, side, side, 3].
struct Drawings {
  std::vector<std::int64_t> codes;
  std::vector<std::uint8_t> rgb;
  farthing_drawn result = FARTHING_DRAWN_INIT;
};

// An open bundle that draws. Movable; for one thread at a time, except cancel().
//
//   farthing::Drawer drawer("build/images");
//   drawer.write_png("seven.png", drawer.draw({7}));
class Drawer {
 public:
  explicit Drawer(const std::string& bundle, farthing_drawer_options options = FARTHING_DRAWER_OPTIONS_INIT) {
    farthing_drawer* drawer = nullptr;
    check(farthing_drawer_open(bundle.c_str(), &options, &drawer));
    drawer_.reset(drawer);
    check(farthing_drawer_about(drawer, &info_));
  }

  // An image for each class; on_progress(codes done, codes of all) ends the drawing by returning false.
  Drawings draw(const std::vector<std::int64_t>& classes, const Drawing& how = {},
                const std::function<bool(std::int64_t, std::int64_t)>& on_progress = {}) {
    return draw(classes, classes.size(), nullptr, 0, how, on_progress);
  }

  // An image for each text: features float32 [count, rows, text_width], without padding.
  Drawings draw_texts(const std::vector<float>& features, std::size_t count, const Drawing& how = {},
                      const std::function<bool(std::int64_t, std::int64_t)>& on_progress = {}) {
    const auto width = static_cast<std::size_t>(std::max<std::int64_t>(info_.text_width, 1));
    return draw({}, count, features.data(), features.size() / width / std::max<std::size_t>(count, 1), how,
                on_progress);
  }

  std::vector<std::uint8_t> pixels(const std::vector<std::int64_t>& codes) {
    std::vector<std::uint8_t> rgb(codes.size() / tokens() * image_bytes());
    check(farthing_draw_pixels(drawer_.get(), codes.data(), codes.size(), rgb.data(), rgb.size()));
    return rgb;
  }

  // All images of `drawn` as one PNG; columns 0 = about a square.
  void write_png(const std::string& path, const Drawings& drawn, std::int64_t columns = 0) const {
    const auto count = static_cast<std::int64_t>(drawn.rgb.size() / image_bytes());
    check(farthing_write_png(path.c_str(), drawn.rgb.data(), count, info_.side, info_.side, columns));
  }

  void cancel() { farthing_drawer_cancel(drawer_.get()); }
  const farthing_drawer_info& about() const { return info_; }
  farthing_drawer* get() { return drawer_.get(); }

 private:
  struct Relay {
    const std::function<bool(std::int64_t, std::int64_t)>* f;
    std::exception_ptr thrown;
  };
  struct Close {
    void operator()(farthing_drawer* drawer) const { farthing_drawer_close(drawer); }
  };
  static void check(farthing_status status) {
    if (status != FARTHING_OK) throw RuntimeError(status);
  }
  std::size_t tokens() const { return static_cast<std::size_t>(info_.tokens); }
  std::size_t image_bytes() const { return static_cast<std::size_t>(3 * info_.side * info_.side); }

  Drawings draw(const std::vector<std::int64_t>& classes, std::size_t count, const float* texts, std::size_t rows,
                const Drawing& how, const std::function<bool(std::int64_t, std::int64_t)>& on_progress) {
    farthing_drawing native = FARTHING_DRAWING_INIT;
    native.seed = how.seed;
    native.temperature = how.temperature;
    native.top_k = how.top_k;
    native.top_p = how.top_p;
    native.guidance = how.guidance;
    native.interval = how.interval;
    native.schedule = how.schedule.empty() ? nullptr : how.schedule.c_str();
    native.decode = how.decode.empty() ? nullptr : how.decode.c_str();
    native.draft_length = how.draft_length;
    native.text_embeds = texts;
    native.text_rows = static_cast<std::int64_t>(rows);
    Drawings made;
    made.codes.resize(count * tokens());
    made.rgb.resize(count * image_bytes());
    Relay relay{&on_progress, nullptr};
    check(farthing_draw(
        drawer_.get(), classes.empty() ? nullptr : classes.data(), count, &native,
        [](void* user, int64_t done, int64_t all) -> int32_t {
          auto& to = *static_cast<Relay*>(user);
          if (!*to.f) return 1;
          try {
            return (*to.f)(done, all) ? 1 : 0;
          } catch (...) {
            to.thrown = std::current_exception();
            return 0;
          }
        },
        &relay, made.codes.data(), made.codes.size(), made.rgb.data(), made.rgb.size(), &made.result));
    if (relay.thrown) std::rethrow_exception(relay.thrown);
    return made;
  }

  std::unique_ptr<farthing_drawer, Close> drawer_;
  farthing_drawer_info info_ = FARTHING_DRAWER_INFO_INIT;
};

}  // namespace farthing
