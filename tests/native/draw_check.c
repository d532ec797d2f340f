/* Drawing through the C interface: what it refuses, and that a good request works. Prints one line per check that failed, then the codes.
 *
 *   draw_check BUNDLE DRAFTING_BUNDLE TEXT_BUNDLE LANGUAGE_BUNDLE ONNXRUNTIME OPS SCRATCH.png
 *
 * BUNDLE draws classes plainly, DRAFTING_BUNDLE has drafts that are accepted exactly and grouped, TEXT_BUNDLE draws texts, LANGUAGE_BUNDLE does
 * not draw. */
#include <farthing.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int good, const char* what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, farthing_last_error());
  ++failures;
}

static int says(const char* words) { return strstr(farthing_last_error(), words) != NULL; }

struct heard {
  int64_t done, all;
  int calls, stop_at;
  farthing_drawer* cancel;
};

static int32_t hear(void* user, int64_t done, int64_t all) {
  struct heard* heard = user;
  heard->done = done;
  heard->all = all;
  ++heard->calls;
  if (heard->cancel) farthing_drawer_cancel(heard->cancel);
  return heard->calls != heard->stop_at;
}

/* Draws class 0 with one field of a request changed; the status it gives. */
static farthing_status ask(farthing_drawer* drawer, farthing_drawing how) {
  const int64_t label = 0;
  return farthing_draw(drawer, &label, 1, &how, NULL, NULL, NULL, 0, NULL, 0, NULL);
}

#define REFUSED(drawer, field, value, words)                              \
  do {                                                                    \
    farthing_drawing asked = FARTHING_DRAWING_INIT;                       \
    asked.field = value;                                                  \
    expect(ask(drawer, asked) == FARTHING_REQUEST && says(words), words); \
  } while (0)

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  farthing_drawer_options options = FARTHING_DRAWER_OPTIONS_INIT;
  options.onnxruntime = argv[5];
  options.ops_library = argv[6];
  options.threads = 1;
  farthing_drawer *drawer = NULL, *drafting = NULL, *none = NULL;

  expect(farthing_drawer_open(NULL, &options, &drawer) == FARTHING_REQUEST, "open without a path");
  expect(farthing_drawer_open(argv[1], &options, NULL) == FARTHING_REQUEST, "open without a place for the drawer");
  expect(farthing_drawer_open("no/such/bundle", &options, &none) == FARTHING_BUNDLE && !none, "open of nothing");
  expect(farthing_drawer_open(argv[4], &options, &none) == FARTHING_BUNDLE && says("expected a model that draws"),
         "open of a model of text");
  farthing_engine* engine = NULL;
  expect(farthing_open(argv[1], NULL, &engine) == FARTHING_BUNDLE && says("which draws"), "text of a model that draws");
  farthing_drawer_options odd = options;
  odd.size = 0;
  expect(farthing_drawer_open(argv[1], &odd, &none) == FARTHING_REQUEST, "options of size 0");
  odd = options;
  odd.threads = -1;
  expect(farthing_drawer_open(argv[1], &odd, &none) == FARTHING_REQUEST && says("threads is -1"), "negative threads");
  farthing_drawer* texts = NULL;
  if (farthing_drawer_open(argv[1], &options, &drawer) || farthing_drawer_open(argv[2], &options, &drafting) ||
      farthing_drawer_open(argv[3], &options, &texts)) {
    printf("failed: open (%s)\n", farthing_last_error());
    return 1;
  }

  farthing_drawer_info info = FARTHING_DRAWER_INFO_INIT, other = FARTHING_DRAWER_INFO_INIT;
  expect(farthing_drawer_about(drawer, &info) == FARTHING_OK, "about");
  expect(info.codes > 1 && info.tokens > 1 && info.side > 1 && info.classes > 1 && info.guided == 1, "its numbers");
  expect(info.text_width == 0 && info.text_rows == 0, "it draws classes");
  expect(!strcmp(info.modes, "plain") && !strcmp(info.decode, "plain") && !strcmp(info.drafts, "none"), "its modes");
  expect(farthing_drawer_about(drafting, &other) == FARTHING_OK && strstr(other.modes, "exact"), "modes with drafts");
  expect(farthing_drawer_about(NULL, &info) == FARTHING_REQUEST, "about nothing");
  expect(farthing_drawer_about(drawer, NULL) == FARTHING_REQUEST, "about into nothing");
  other.size = 1;
  expect(farthing_drawer_about(drawer, &other) == FARTHING_REQUEST, "a struct without its size");

  const size_t tokens = (size_t)info.tokens, bytes = (size_t)(3 * info.side * info.side);
  int64_t *codes = calloc(2 * tokens, sizeof *codes), *again = calloc(2 * tokens, sizeof *again);
  uint8_t *rgb = calloc(2, bytes), *same = calloc(2, bytes);
  const int64_t labels[] = {0, info.classes - 1}, above[] = {0, info.classes}, below[] = {-1};
  farthing_drawn drawn = FARTHING_DRAWN_INIT;
  struct heard heard = {0, 0, 0, -1, NULL};

  expect(farthing_draw(NULL, labels, 2, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "no drawer");
  expect(farthing_draw(drawer, NULL, 2, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "no classes");
  expect(farthing_draw(drawer, labels, 0, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "no images");
  expect(farthing_draw(drawer, labels, SIZE_MAX, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "absurdly many");
  expect(farthing_draw(drawer, above, 2, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST && says("class is"),
         "class above");
  expect(farthing_draw(drawer, below, 1, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST && says("class is -1"),
         "class below");
  expect(farthing_draw(drawer, labels, 2, NULL, NULL, NULL, codes, 2 * tokens - 1, NULL, 0, NULL) == FARTHING_REQUEST &&
             says("room for codes"),
         "too little room for codes");
  expect(farthing_draw(drawer, labels, 2, NULL, NULL, NULL, NULL, 0, rgb, 2 * bytes - 1, NULL) == FARTHING_REQUEST &&
             says("room for rgb"),
         "too little room for pixels");
  expect(farthing_draw(drawer, labels, 2, NULL, NULL, NULL, NULL, 5, NULL, 0, NULL) == FARTHING_REQUEST, "room that is NULL");
  drawn.size = 0;
  expect(farthing_draw(drawer, labels, 2, NULL, hear, &heard, NULL, 0, NULL, 0, &drawn) == FARTHING_REQUEST && !heard.calls,
         "a result without its size");
  drawn.size = sizeof drawn;
  REFUSED(drawer, size, 0, "size of a struct");
  REFUSED(drawer, temperature, -0.1, "temperature is -0.1");
  REFUSED(drawer, temperature, NAN, "temperature is");
  REFUSED(drawer, top_k, -1, "top_k is -1");
  REFUSED(drawer, top_p, 0, "top_p is 0");
  REFUSED(drawer, top_p, 1.01, "top_p is 1.01");
  REFUSED(drawer, guidance, -2, "guidance scale is -2");
  REFUSED(drawer, guidance, 101, "guidance scale is 101");
  REFUSED(drawer, guidance, NAN, "guidance scale is");
  REFUSED(drawer, interval, -2, "guidance interval is -2");
  REFUSED(drawer, schedule, "slow", "guidance schedule is 'slow'");
  REFUSED(drawer, schedule, "", "guidance schedule is ''");
  REFUSED(drawer, decode, "fast", "decode is 'fast'");
  REFUSED(drawer, decode, "", "decode is ''");
  REFUSED(drawer, decode, "exact", "decode is 'exact'"); /* this bundle has no drafts */
  REFUSED(drawer, draft_length, 4, "none with plain decoding");
  REFUSED(drafting, draft_length, -1, "draft_window is -1");
  REFUSED(drafting, draft_length, 1, "draft_window is 1,");
  REFUSED(drafting, draft_length, INT64_MAX, "draft_window is");
  REFUSED(drafting, temperature, 0, "decode at temperature 0"); /* its default is grouped */
  REFUSED(drawer, prefix_codes, -1, "prefix_codes is -1");
  REFUSED(drawer, prefix_codes, INT64_MAX, "prefix_codes is");
  REFUSED(drawer, prefix_codes, 2, "prefix is NULL");
  const float text[] = {0};
  REFUSED(drawer, text_embeds, text, "the model draws those");
  farthing_drawing how = FARTHING_DRAWING_INIT;
  const int64_t strange[] = {0, info.codes};
  how.prefix = strange;
  how.prefix_codes = 2;
  expect(ask(drawer, how) == FARTHING_REQUEST && says("codes is"), "a prefix of no codes");
  how.prefix_codes = info.tokens;
  how.prefix = codes;
  expect(ask(drawer, how) == FARTHING_REQUEST && says("prefix is"), "a prefix of a whole image");
  how = (farthing_drawing)FARTHING_DRAWING_INIT;

  how.seed = 7;
  expect(farthing_draw(drawer, labels, 2, &how, hear, &heard, codes, 2 * tokens, rgb, 2 * bytes, &drawn) == FARTHING_OK, "draw");
  expect(drawn.stop == FARTHING_STOP_LENGTH && drawn.passes == info.tokens && drawn.rounds == 0, "its figures");
  expect(heard.calls == info.tokens && heard.done == heard.all && heard.all == 2 * info.tokens, "its progress");
  expect(farthing_draw_pixels(drawer, codes, 2 * tokens, same, 2 * bytes) == FARTHING_OK && !memcmp(rgb, same, 2 * bytes),
         "pixels of codes");
  how.seed = 8; /* the second image, alone */
  expect(farthing_draw(drawer, labels + 1, 1, &how, NULL, NULL, again, tokens, NULL, 0, NULL) == FARTHING_OK &&
             !memcmp(again, codes + tokens, tokens * sizeof *codes),
         "an image does not depend on its neighbours");
  how.prefix = codes + tokens;
  how.prefix_codes = 5;
  expect(farthing_draw(drawer, labels + 1, 1, &how, NULL, NULL, again, tokens, NULL, 0, &drawn) == FARTHING_OK &&
             !memcmp(again, codes + tokens, tokens * sizeof *codes) && drawn.passes == info.tokens - 4,
         "its own beginning given, an image goes on as it did");
  how = (farthing_drawing)FARTHING_DRAWING_INIT;
  how.seed = 7;

  /* Ended early: by the callback, and by another thread's word. */
  struct heard three = {0, 0, 0, 3, NULL}, cancelling = {0, 0, 0, -1, drawer};
  memset(same, 9, bytes);
  expect(farthing_draw(drawer, labels, 1, &how, hear, &three, again, tokens, same, bytes, &drawn) == FARTHING_OK, "draw, cut short");
  expect(drawn.stop == FARTHING_STOP_CALLBACK && three.calls == 3, "stopped by the callback");
  expect(!memcmp(again, codes, 3 * sizeof *codes) && again[tokens - 1] == 0 && same[0] == 9, "what was drawn is given");
  expect(farthing_draw(drawer, labels, 1, &how, hear, &cancelling, again, tokens, NULL, 0, &drawn) == FARTHING_OK &&
             drawn.stop == FARTHING_STOP_CANCELLED && cancelling.calls == 1,
         "cancelled");
  expect(farthing_draw(drawer, labels, 1, &how, NULL, NULL, again, tokens, NULL, 0, &drawn) == FARTHING_OK &&
             drawn.stop == FARTHING_STOP_LENGTH && !memcmp(again, codes, tokens * sizeof *codes),
         "and drawn again");

  how.decode = "exact";
  how.draft_length = 4;
  expect(farthing_draw(drafting, labels, 1, &how, hear, &heard, again, tokens, same, bytes, &drawn) == FARTHING_OK, "exact");
  expect(drawn.passes <= info.tokens && drawn.rounds == drawn.passes - 1 && drawn.accepted <= drawn.judged &&
             drawn.judged <= 4 * drawn.rounds && drawn.total_variation == 0 && drawn.mean_chance > 0,
         "its figures");
  farthing_drawing shorter = how; /* an older program, whose struct ended before decode */
  shorter.size = offsetof(farthing_drawing, decode);
  expect(ask(drawer, shorter) == FARTHING_OK, "an older struct");

  expect(farthing_draw_pixels(drawer, NULL, tokens, same, bytes) == FARTHING_REQUEST, "pixels of nothing");
  expect(farthing_draw_pixels(drawer, codes, tokens - 1, same, bytes) == FARTHING_REQUEST, "pixels of a part");
  expect(farthing_draw_pixels(drawer, codes, 0, same, bytes) == FARTHING_REQUEST, "pixels of no codes");
  expect(farthing_draw_pixels(drawer, codes, tokens, same, bytes - 1) == FARTHING_REQUEST && says("room"), "no room");
  again[3] = info.codes;
  expect(farthing_draw_pixels(drawer, again, tokens, same, bytes) == FARTHING_REQUEST && says("codes is"), "no code");

  expect(farthing_write_png(argv[7], rgb, 2, info.side, info.side, 0) == FARTHING_OK, "write a PNG");
  expect(farthing_write_png(NULL, rgb, 2, info.side, info.side, 0) == FARTHING_REQUEST, "a PNG nowhere");
  expect(farthing_write_png(argv[7], NULL, 2, info.side, info.side, 0) == FARTHING_REQUEST, "a PNG of nothing");
  expect(farthing_write_png(argv[7], rgb, 0, info.side, info.side, 0) == FARTHING_REQUEST, "a PNG of no images");
  expect(farthing_write_png(argv[7], rgb, 2, info.side, info.side, -1) == FARTHING_REQUEST, "negative columns");
  expect(farthing_write_png(argv[7], rgb, INT64_MAX, INT64_MAX, INT64_MAX, 1) == FARTHING_REQUEST, "an absurd PNG");
  expect(farthing_write_png(argv[7], rgb, 1, 1 << 20, 1 << 20, 1) == FARTHING_REQUEST, "a PNG above 2^28 pixels");
  expect(farthing_write_png("no/such/folder/x.png", rgb, 1, info.side, info.side, 0) == FARTHING_REQUEST, "no folder");

  /* Texts: 3 rows of features each, 0, 1/8, 2/8 ... in the order of memory. */
  farthing_drawer_info about = FARTHING_DRAWER_INFO_INIT;
  expect(farthing_drawer_about(texts, &about) == FARTHING_OK && about.classes == 0 && about.text_width > 0 && about.text_rows > 3,
         "it draws texts");
  const size_t numbers = (size_t)(2 * 3 * about.text_width), places = 2 * (size_t)about.tokens;
  float* features = malloc(numbers * sizeof *features);
  for (size_t i = 0; i < numbers; ++i) features[i] = (float)i / 8;
  int64_t* said = calloc(places, sizeof *said);
  how = (farthing_drawing)FARTHING_DRAWING_INIT;
  how.text_embeds = features;
  how.text_rows = 3;
  how.seed = 3;
  expect(farthing_draw(texts, NULL, 2, &how, NULL, NULL, said, places, NULL, 0, &drawn) == FARTHING_OK, "draw texts");
  expect(farthing_draw(texts, labels, 2, &how, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "texts and classes");
  expect(farthing_draw(texts, labels, 2, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST, "classes of a model of texts");
  const int64_t wrong[] = {0, -1, about.text_rows + 1, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
    how.text_rows = wrong[i];
    expect(farthing_draw(texts, NULL, 2, &how, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST && says("text_rows is"),
           "a wrong number of rows");
  }
  how.text_rows = 3;
  features[numbers - 1] = NAN;
  expect(farthing_draw(texts, NULL, 2, &how, NULL, NULL, NULL, 0, NULL, 0, NULL) == FARTHING_REQUEST && says("finite"), "NaN");

  farthing_drawer_close(texts);
  farthing_drawer_close(drafting);
  farthing_drawer_close(drawer);
  farthing_drawer_close(NULL);
  farthing_drawer_cancel(NULL);
  printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  printf("codes");
  for (size_t i = 0; i < 2 * tokens; ++i) printf(" %lld", (long long)codes[i]);
  printf("\ntexts");
  for (size_t i = 0; i < places; ++i) printf(" %lld", (long long)said[i]);
  printf("\n");
  free(codes), free(again), free(rgb), free(same), free(features), free(said);
  return failures != 0;
}
