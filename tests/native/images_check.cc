// Images through farthing.hpp: what a user of the C++ interface writes, and what the C interface refuses.
//
//   images_check BUNDLE ONNXRUNTIME OPS MARKER HEIGHT WIDTH LEVEL < pixels   ->   ids of "1 <image> 30 31", twice by ids, once by text
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "farthing.hpp"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s; last error: %s\n", what, farthing_last_error());
  ++failures;
}

template <class F>
void expect_refusal(farthing_status status, const char* words, const F& f) {
  try {
    f();
    expect(false, words);
  } catch (const farthing::RuntimeError& error) {
    expect(error.status() == status && std::string(error.what()).find(words) != std::string::npos, words);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  farthing_options options = FARTHING_OPTIONS_INIT;
  options.onnxruntime = argv[2];
  options.ops_library = argv[3];
  options.threads = 1;
  options.draft = "none";
  farthing::Runtime runtime(argv[1], options);
  const std::int32_t marker = std::atoi(argv[4]);
  const std::string bytes((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  farthing::Picture picture{reinterpret_cast<const std::uint8_t*>(bytes.data()), std::atoll(argv[5]),
                            std::atoll(argv[6]), 0, argv[7]};
  if (bytes.size() != static_cast<std::size_t>(3 * picture.height * picture.width)) return 3;
  farthing::Sampling how;
  how.max_new_tokens = 8;
  how.ignore_eos = true;
  const std::vector<std::int32_t> prompt{1, marker, 30, 31};

  farthing_result result = FARTHING_RESULT_INIT;
  const auto ids = runtime.generate(prompt, {picture}, how, &result);
  expect(result.images == 1 && result.images_encoded == 1 && result.image_cache_hits == 0, "the tower ran once");
  expect(result.visual_rows_after > 0 && result.visual_rows_after <= result.visual_rows_before, "rows are counted");
  expect(result.prompt_tokens == 3 + result.visual_rows_after || result.prompt_tokens == 3 + result.visual_rows_before,
         "rows of the image are tokens of the prompt");
  expect(result.vision_seconds > 0 && result.vision_seconds < result.prefill_seconds, "vision is a part of prefill");
  // The same pixels with bytes between the rows are the same image.
  std::string wide;
  const auto row = static_cast<std::size_t>(3 * picture.width);
  for (std::size_t at = 0; at < bytes.size(); at += row) wide += bytes.substr(at, row) + "gap";
  farthing::Picture apart = picture;
  apart.rgb = reinterpret_cast<const std::uint8_t*>(wide.data());
  apart.stride = static_cast<std::int64_t>(row) + 3;
  expect(runtime.generate(prompt, {apart}, how, &result) == ids && result.image_cache_hits == 1, "rows may lie apart");
  std::string text;
  const auto made = runtime.generate("<image>the hat", {picture}, how, [&](std::string_view piece) {
    text += piece;
    return true;
  });
  expect(made.new_tokens == 8 && made.images == 1, "a text may hold the marker");

  const auto refuse = [&](const char* words, const farthing::Picture& bad, std::vector<std::int32_t> asked) {
    expect_refusal(FARTHING_REQUEST, words, [&] { runtime.generate(asked, {bad}, how); });
  };
  const auto changed = [&](auto change) {
    farthing::Picture other = picture;
    change(other);
    return other;
  };
  refuse("pixels of image 0 is NULL", changed([](auto& p) { p.rgb = nullptr; }), prompt);
  refuse("image 0 is 0 x", changed([](auto& p) { p.height = 0; }), prompt);
  refuse("expected at most 268435456 pixels", changed([](auto& p) { p.height = 1 << 22, p.width = 1 << 22; }), prompt);
  refuse("image 0 is 9223372036854775807", changed([](auto& p) { p.height = INT64_MAX, p.width = INT64_MAX; }), prompt);
  refuse("three bytes a pixel", changed([](auto& p) { p.stride = p.width; }), prompt);
  refuse("level is 'no'", changed([](auto& p) { p.level = "no"; }), prompt);
  refuse("image markers of the prompt is 0", picture, {1, 30});
  expect_refusal(FARTHING_REQUEST, "is 1, expected 0", [&] { runtime.generate(prompt, how); });
  farthing_image old = FARTHING_IMAGE_INIT;
  old.size = 3;
  expect(farthing_generate_images(runtime.get(), prompt.data(), prompt.size(), &old, 1, nullptr, nullptr, nullptr,
                                  nullptr) == FARTHING_REQUEST,
         "a struct without its size");
  expect(farthing_generate_images(runtime.get(), prompt.data(), prompt.size(), nullptr, 1, nullptr, nullptr, nullptr,
                                  nullptr) == FARTHING_REQUEST,
         "no images where one was promised");
  for (const std::int32_t id : ids) std::printf("%d ", id);
  return failures == 0 ? 0 : 1;
}
