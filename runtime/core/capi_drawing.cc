// The part of farthing.h that draws, over drawing::Drawer.
#include "../include/farthing.h"
#include "capi_support.h"
#include "drawing/drawer.h"
#include "drawing/png.h"

using farthing::refuse;
using farthing::Status;
using namespace farthing::capi;
namespace drawing = farthing::drawing;

struct farthing_drawer {
  drawing::Drawer drawer;
  std::string modes;  // as farthing_drawer_info lists them

  farthing_drawer(const char* path, const farthing::OrtOptions& options) : drawer(path, options), modes("plain") {
    for (const std::string& mode : drawer.bundle().image.accept) modes += ", " + mode;
  }
};

namespace {

drawing::DrawOptions options_of(const farthing_drawing& how, std::size_t count) {
  drawing::DrawOptions options;
  options.seed = how.seed;
  if (how.guidance != -1) options.guidance_scale = how.guidance;
  options.guidance_interval = how.interval;
  if (how.schedule) options.guidance_schedule = how.schedule;
  options.warp = {how.temperature, how.top_k, how.top_p};
  if (how.decode) options.decode = how.decode;
  options.draft_length = how.draft_length;
  if (how.prefix_codes < 0 || how.prefix_codes > drawing::kMostPngPixels) {
    refuse(Status::request, "prefix_codes", std::to_string(how.prefix_codes), "0 or more", "correct it");
  }
  if (how.prefix_codes) {
    need(how.prefix, "prefix");
    options.prefix = {how.prefix, count * static_cast<std::size_t>(how.prefix_codes)};
  }
  return options;
}

drawing::Wish wish_of(const farthing_drawer& drawer, const int64_t* classes, std::size_t count,
                      const farthing_drawing& how) {
  if (count < 1 || count > (1 << 16)) {
    refuse(Status::request, "number of images", std::to_string(count), "1 to 65536", "draw several times");
  }
  drawing::Wish wish;
  wish.count = static_cast<std::int64_t>(count);
  if (classes) wish.classes = {classes, count};
  const std::int64_t most = drawer.drawer.bundle().condition_rows, width = drawer.drawer.text_width();
  if (how.text_embeds && width > 0) {
    if (how.text_rows < 1 || how.text_rows > most) {
      refuse(Status::request, "text_rows", std::to_string(how.text_rows), "1 to " + std::to_string(most),
             "leave padding out, or shorten the text");
    }
    wish.text_rows = how.text_rows;
    wish.texts = {how.text_embeds, count * static_cast<std::size_t>(how.text_rows * width)};
  } else if (how.text_embeds) {
    wish.texts = {how.text_embeds, 1};  // refused, as a model of classes takes none
  }
  return wish;
}

void need_room(const void* buffer, std::size_t capacity, std::size_t wanted, const char* what) {
  if (buffer == nullptr && capacity == 0) return;
  need(buffer, what);
  if (capacity < wanted) {
    refuse(Status::request, std::string("room for ") + what, std::to_string(capacity),
           "at least " + std::to_string(wanted), "pass a larger buffer, or NULL and 0");
  }
}

farthing_drawn result_of(const drawing::Drawn& made) {
  farthing_drawn result = FARTHING_DRAWN_INIT;
  const drawing::Account& account = made.account;
  result.passes = made.passes;
  result.rounds = account.rounds;
  result.judged = account.judged;
  result.accepted = account.accepted;
  result.mean_chance = account.mean_chance();
  result.total_variation = account.total_variation(made.decode);
  result.model_seconds = made.model_seconds;
  result.choosing_seconds = made.choosing_seconds;
  result.total_seconds = made.total_seconds;
  return result;
}

}  // namespace

farthing_status farthing_drawer_open(const char* bundle, const farthing_drawer_options* options,
                                     farthing_drawer** drawer) {
  return guarded([&] {
    need(drawer, "drawer");
    *drawer = nullptr;
    need(bundle, "bundle");
    const farthing_drawer_options given = taken(options, farthing_drawer_options FARTHING_DRAWER_OPTIONS_INIT);
    farthing::OrtOptions made;
    made.threads = given.threads;
    made.hashes = !given.skip_hashes;
    if (given.onnxruntime) made.onnxruntime = given.onnxruntime;
    made.ops_library = given.ops_library ? given.ops_library : ops_beside();
    *drawer = new farthing_drawer(bundle, made);
  });
}

void farthing_drawer_close(farthing_drawer* drawer) { delete drawer; }

farthing_status farthing_drawer_about(const farthing_drawer* drawer, farthing_drawer_info* info) {
  return guarded([&] {
    need(drawer, "drawer");
    need(info, "info");
    const drawing::DrawingBundle& bundle = drawer->drawer.bundle();
    farthing_drawer_info all = FARTHING_DRAWER_INFO_INIT;
    all.codes = bundle.image.all_codes();
    all.tokens = bundle.image.tokens();
    all.side = bundle.image.size;
    all.classes = bundle.texts ? 0 : bundle.image.classes;
    all.text_width = drawer->drawer.text_width();
    all.text_rows = bundle.texts ? bundle.condition_rows : 0;
    all.modes = drawer->modes.c_str();
    all.decode = bundle.image.accept.empty() ? "plain" : bundle.image.default_accept.c_str();
    all.drafts = bundle.image.drafts.c_str();
    all.guided = bundle.unconditional;
    taken(info, all);  // refuses a struct without its size
    give(info, all);
  });
}

farthing_status farthing_draw(farthing_drawer* drawer, const int64_t* classes, size_t count,
                              const farthing_drawing* how, farthing_on_progress on_progress, void* user, int64_t* codes,
                              size_t code_capacity, uint8_t* rgb, size_t rgb_capacity, farthing_drawn* result) {
  return guarded([&] {
    need(drawer, "drawer");
    const farthing_drawing given = taken(how, farthing_drawing FARTHING_DRAWING_INIT);
    if (result) taken(result, farthing_drawn FARTHING_DRAWN_INIT);
    const drawing::Wish wish = wish_of(*drawer, classes, count, given);
    const drawing::ImageCodes& image = drawer->drawer.bundle().image;
    const std::size_t bytes = count * static_cast<std::size_t>(3 * image.size * image.size);
    need_room(codes, code_capacity, count * static_cast<std::size_t>(image.tokens()), "codes");
    need_room(rgb, rgb_capacity, bytes, "rgb");
    bool refused = false;
    drawing::Drawer::Progress progress;
    if (on_progress) {
      progress = [&](std::int64_t done, std::int64_t all) {
        refused = refused || on_progress(user, done, all) == 0;
        return !refused;
      };
    }
    const drawing::Drawn made = drawer->drawer.draw(wish, options_of(given, count), progress);
    farthing_drawn all = result_of(made);
    if (!made.finished) all.stop = refused ? FARTHING_STOP_CALLBACK : FARTHING_STOP_CANCELLED;
    if (codes) std::copy(made.codes.begin(), made.codes.end(), codes);
    if (rgb && made.finished) {
      const double before = drawer->drawer.pixel_seconds();
      drawer->drawer.decode(made.codes, {rgb, bytes});
      all.pixel_seconds = drawer->drawer.pixel_seconds() - before;
      all.total_seconds += all.pixel_seconds;
    }
    give(result, all);
  });
}

farthing_status farthing_draw_pixels(farthing_drawer* drawer, const int64_t* codes, size_t count, uint8_t* rgb,
                                     size_t rgb_capacity) {
  return guarded([&] {
    need(drawer, "drawer");
    need(codes, "codes");
    need(rgb, "rgb");
    drawer->drawer.decode({codes, count}, {rgb, rgb_capacity});
  });
}

void farthing_drawer_cancel(farthing_drawer* drawer) {
  if (drawer) drawer->drawer.cancel();
}

farthing_status farthing_write_png(const char* path, const uint8_t* rgb, int64_t count, int64_t height, int64_t width,
                                   int64_t columns) {
  return guarded([&] {
    need(path, "path");
    need(rgb, "rgb");
    drawing::write_png_sheet(path, rgb, count, height, width, columns);
  });
}
