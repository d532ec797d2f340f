#include "draw_request.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "error.h"
#include "tensors.h"

namespace farthing::drawing {
namespace {

constexpr std::int64_t kMostImages = 1 << 16;
// They compare masses of two distributions: greedy decoding has none to compare.
constexpr std::array<std::string_view, 2> kMasses{"grouped", "partition"};

bool compares_masses(const std::string& mode) {
  return std::find(kMasses.begin(), kMasses.end(), mode) != kMasses.end();
}

void check_classes(const Wish& wish, const ImageCodes& image) {
  for (const std::int64_t each : wish.classes) {
    if (each >= 0 && each < image.classes) continue;
    refuse(Status::request, "class", std::to_string(each), "0 to " + std::to_string(image.classes - 1), "correct it");
  }
}

void check_texts(const Wish& wish, std::int64_t width, std::int64_t most) {
  const std::string fix = "give features of the text encoder that the model was trained with, without padding";
  const bool fits = wish.text_rows >= 1 && wish.text_rows <= most;
  if (!fits || wish.texts.size() != static_cast<std::size_t>(wish.count * wish.text_rows * width)) {
    refuse(Status::request, "text_embeds",
           std::to_string(wish.texts.size()) + " numbers in " + std::to_string(wish.text_rows) + " rows",
           "[B,T," + std::to_string(width) + "] with T of 1 to " + std::to_string(most), fix);
  }
  if (!std::all_of(wish.texts.begin(), wish.texts.end(), [](float value) { return std::isfinite(value); })) {
    refuse(Status::request, "text_embeds", "NaN or infinite somewhere", "finite numbers", fix);
  }
}

std::string mode_of(const ImageCodes& image, const DrawOptions& options) {
  std::vector<std::string> modes{"plain"};
  modes.insert(modes.end(), image.accept.begin(), image.accept.end());
  const std::string fallback = image.accept.empty() ? "plain" : image.default_accept;
  const std::string mode = options.decode.value_or(fallback);
  const auto list = [&](bool greedy) {
    std::string all;
    for (const std::string& each : modes) {
      if (!greedy || !compares_masses(each)) all += (all.empty() ? "" : ", ") + each;
    }
    return all;
  };
  if (std::find(modes.begin(), modes.end(), mode) == modes.end()) {
    refuse(Status::request, "decode", "'" + mode.substr(0, 60) + "'",
           "one of " + list(false) + ", which the bundle has", "choose one, or export with drafts");
  }
  if (options.warp.temperature == 0 && compares_masses(mode)) {
    refuse(Status::request, "decode at temperature 0",
           "'" + mode + "'" + (options.decode ? "" : ", the default of the bundle"), list(true), "choose one");
  }
  return mode;
}

std::int64_t length_of(const ImageCodes& image, const std::string& mode, std::int64_t given) {
  const std::string name = image.drafts == "eagle" ? "draft_length" : "draft_window";
  if (mode == "plain") {
    if (given != 0) {
      refuse(Status::request, name, std::to_string(given), "none with plain decoding", "leave it out");
    }
    return 0;
  }
  const std::int64_t least = image.drafts == "eagle" ? 1 : 2, most = image.tokens();
  const std::int64_t length = given ? given : std::min(image.draft_length, most);
  if (given && (given < least || given > most)) {
    refuse(Status::request, name, std::to_string(given), std::to_string(least) + " to " + std::to_string(most),
           "correct it");
  }
  return length;
}

}  // namespace

Drawer::Plan Drawer::plan(const Wish& wish, const DrawOptions& options) const {
  const ImageCodes& image = bundle_.image;
  Plan made;
  made.wish = wish;
  made.seed = options.seed;
  made.warp = options.warp;
  made.guidance = {options.guidance_scale.value_or(bundle_.unconditional ? 4.0 : 1.0), options.guidance_interval,
                   schedule_of(options.guidance_schedule)};
  check(made.guidance);
  check(made.warp);
  if (bundle_.texts == wish.texts.empty()) {
    refuse(Status::request, "condition", wish.texts.empty() ? "no text_embeds" : "text_embeds",
           bundle_.texts ? "text_embeds: the model draws what a text says" : "classes: the model draws those",
           "give it");
  }
  if (bundle_.texts != wish.classes.empty() && wish.count > 0) {
    refuse(Status::request, "condition", bundle_.texts ? "classes beside text_embeds" : "no classes",
           bundle_.texts ? "text_embeds alone" : "a class for each image", "correct it");
  }
  if (wish.count < 1 || wish.count > kMostImages) {
    refuse(Status::request, "number of images", std::to_string(wish.count), "1 to " + std::to_string(kMostImages),
           "draw several times");
  }
  bundle_.texts ? check_texts(wish, text_width_, bundle_.condition_rows) : check_classes(wish, image);
  if (made.guidance.guided() && !bundle_.unconditional) {
    refuse(Status::request, "guidance scale", std::to_string(made.guidance.scale),
           "1: the model has no unconditional rows", "use 1");
  }
  made.mode = mode_of(image, options);
  made.length = length_of(image, made.mode, options.draft_length);
  made.prefix = options.prefix;
  if (!made.prefix.empty()) {
    if (image.sequence != Sequence::raster || !made.plain()) {
      refuse(Status::request, "prefix", "given with another order or decode " + made.mode,
             "raster order and plain decoding", "use decode plain, or leave the prefix out");
    }
    made.prefix_codes = static_cast<std::int64_t>(made.prefix.size()) / wish.count;
    if (made.prefix_codes * wish.count != static_cast<std::int64_t>(made.prefix.size()) ||
        made.prefix_codes >= image.tokens()) {
      refuse(Status::request, "prefix", std::to_string(made.prefix.size()) + " codes",
             "[" + std::to_string(wish.count) + ",n] with n of 0 to " + std::to_string(image.tokens() - 1),
             "give codes for each image");
    }
    pixels_.check(made.prefix);
  }
  return made;
}

}  // namespace farthing::drawing
