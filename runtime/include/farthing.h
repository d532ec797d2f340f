/* The C interface of farthing: open a bundle, decode, stream text. Stable: functions and the fields of structs are only ever
 * added at the end, and every struct begins with its size.
 *
 *   farthing_engine* engine;
 *   if (farthing_open("build/smollm2", NULL, &engine) != FARTHING_OK) { puts(farthing_last_error()); return 1; }
 *   farthing_generation how = FARTHING_GENERATION_INIT;
 *   farthing_result result = FARTHING_RESULT_INIT;
 *   farthing_generate_text(engine, "The capital of France is", &how, print_piece, NULL, &result);
 *   farthing_close(engine);
 *
 * No exception crosses this interface. An engine is for one thread at a time, except farthing_cancel(). */
#ifndef FARTHING_H
#define FARTHING_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FARTHING_API __attribute__((visibility("default")))
#else
#define FARTHING_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum farthing_status {
  FARTHING_OK = 0,
  FARTHING_INTERNAL = 1,   /* a defect of ours, or of ONNX Runtime */
  FARTHING_REQUEST = 2,    /* impossible request: empty prompt, id out of range, context too short */
  FARTHING_BUNDLE = 4,     /* damaged, edited or future bundle or state file */
  FARTHING_ENVIRONMENT = 6 /* a library is missing or too old */
} farthing_status;

typedef struct farthing_engine farthing_engine;

/* Message of the last call on this thread that did not return FARTHING_OK; valid until the next call. */
FARTHING_API const char* farthing_last_error(void);
/* "0.1.0" */
FARTHING_API const char* farthing_version(void);

typedef struct farthing_options {
  size_t size;              /* sizeof(farthing_options) */
  int32_t threads;          /* 0 = all cores */
  int32_t skip_hashes;      /* 1 = do not check SHA-256 of the files when opening */
  int64_t context;          /* cache slots; 0 = min(max_positions, 2048) */
  int64_t chunk;            /* rows of one prefill pass; 0 = 256 */
  const char* onnxruntime;  /* libonnxruntime.so; NULL = FARTHING_ORT or the system's */
  const char* ops_library;  /* libfarthing_ops.so; NULL = the one beside libfarthing; "" = run graphs by their bodies */
  int32_t tensorrt;         /* 1 = the engines that `farthing compile --target tensorrt` built; context 0 = theirs */
  int32_t cuda_graphs;      /* 1 = with tensorrt, replay passes of one row as a CUDA graph */
  const char* draft;        /* guess ahead: "none", "auto", "lookup", "aded", "mtp", "model"; NULL = "tuned": auto where
                               `farthing tune` has measured this machine, else none. The text is the same, but for a judge's.
                               Other names measure the machine when opening */
  const char* draft_table;  /* a table of `farthing draft-table`; NULL = none */
  int64_t draft_rows;       /* most drafted tokens of a pass; 0 = 15 */
  const char* draft_bundle; /* with draft "model": folder of the small model's bundle; NULL = none */
  int32_t no_judge;         /* 1 = the judge of a bundle of `farthing export judge` accepts nothing; else it is lossy */
  int64_t image_cache;      /* bytes kept of what the vision tower said of images seen lately; 0 = 256 MiB, -1 = none */
} farthing_options;
#define FARTHING_OPTIONS_INIT {sizeof(farthing_options), 0, 0, 0, 0, NULL, NULL, 0, 0, NULL, NULL, 0, NULL, 0, 0}

/* Opens a bundle. options may be NULL. On failure *engine is NULL. */
FARTHING_API farthing_status farthing_open(const char* bundle, const farthing_options* options,
                                           farthing_engine** engine);
FARTHING_API void farthing_close(farthing_engine* engine); /* NULL is fine */

FARTHING_API int64_t farthing_context(const farthing_engine* engine); /* cache slots */
FARTHING_API int64_t farthing_vocab_size(const farthing_engine* engine);
FARTHING_API int64_t farthing_length(const farthing_engine* engine); /* tokens in the cache */

/* Text to ids. parse_special: 1 = special tokens written in the text are tokens. Writes at most `capacity` ids and sets *count
 * to the number there are; call with capacity 0 to learn it. FARTHING_BUNDLE when the bundle has no tokenizer, or one that only
 * the Python interface implements. */
FARTHING_API farthing_status farthing_encode(farthing_engine* engine, const char* text, int32_t parse_special,
                                             int32_t* ids, size_t capacity, size_t* count);
/* Ids to UTF-8. Writes at most capacity - 1 bytes and a zero; *bytes is the length there is. */
FARTHING_API farthing_status farthing_decode(farthing_engine* engine, const int32_t* ids, size_t count, char* text,
                                             size_t capacity, size_t* bytes);

/* Step by step: append tokens, read the logits of the last (float32 [vocab], valid until the next run), go back. */
FARTHING_API farthing_status farthing_prefill(farthing_engine* engine, const int32_t* ids, size_t count);
FARTHING_API farthing_status farthing_logits(farthing_engine* engine, const float** logits, size_t* count);
FARTHING_API farthing_status farthing_rewind(farthing_engine* engine, int64_t length); /* 0 = start over */
/* Append at most `chunk` tokens in one pass and get the logits of each, float32 [count, vocab], valid until the next run. A verifier that
 * accepts a of them goes back with farthing_rewind(engine, length_before + a), which then runs nothing. */
FARTHING_API farthing_status farthing_extend(farthing_engine* engine, const int32_t* ids, size_t count,
                                             const float** logits);

typedef struct farthing_generation {
  size_t size; /* sizeof(farthing_generation) */
  int64_t max_new_tokens;
  double temperature;        /* 0 = greedy */
  int64_t top_k;             /* 0 = off */
  double top_p;              /* 1 = off */
  double min_p;              /* 0 = off */
  double repetition_penalty; /* 1 = off */
  uint64_t seed;             /* same seed, same tokens, here and in Python */
  const int32_t* stop_ids;   /* besides the bundle's own end-of-text ids */
  size_t stop_id_count;
  const char* const* stop_strings; /* text calls only */
  size_t stop_string_count;
  int32_t ignore_eos;     /* 1 = end-of-text ids do not stop */
  int32_t reuse_prefix;   /* 1 = keep the cache of what the prompt shares with it */
  int64_t restart_window; /* with the context full, begin again with the last this many tokens; 0 = stop */
  int32_t plain;          /* 1 = do not guess ahead in this generation */
} farthing_generation;
#define FARTHING_GENERATION_INIT {sizeof(farthing_generation), 128, 0, 0, 1, 0, 1, 0, NULL, 0, NULL, 0, 0, 0, 0, 0}

typedef enum farthing_stop {
  FARTHING_STOP_LENGTH = 0,
  FARTHING_STOP_EOS = 1,
  FARTHING_STOP_CALLBACK = 2,
  FARTHING_STOP_CONTEXT = 3,
  FARTHING_STOP_CANCELLED = 4,
  FARTHING_STOP_STRING = 5
} farthing_stop;

typedef struct farthing_result {
  size_t size; /* sizeof(farthing_result) */
  farthing_stop stop;
  int64_t prompt_tokens, new_tokens, passes, rows;
  double prefill_seconds, decode_seconds, first_token_seconds; /* wall clock */
  double prefill_cpu_seconds, decode_cpu_seconds;              /* of the whole process */
  double model_seconds;                                        /* inside ONNX Runtime, wall clock */
  int64_t restarts;                                            /* see farthing_generation.restart_window */
  int64_t drafts, drafted, accepted; /* passes with drafted tokens, the tokens, and those that were right */
  double draft_seconds;              /* spent on guessing, wall clock */
  int64_t judged;                    /* accepted tokens that plain decoding would not have said; 0 without a judge */
  /* Of the images that were not in the cache already: how many; encoded by the vision tower, or remembered by it; rows without dropping
     any, and rows that reached the last layer; wall clock of preprocessing, tower and projector, part of prefill_seconds. */
  int64_t images, images_encoded, image_cache_hits, visual_rows_before, visual_rows_after;
  double vision_seconds;
} farthing_result;
#define FARTHING_RESULT_INIT \
  {sizeof(farthing_result), FARTHING_STOP_LENGTH, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* Called with each new id; 0 ends the generation. */
typedef int32_t (*farthing_on_token)(void* user, int32_t id);
/* Called with text that is final: whole UTF-8 characters, zero-terminated; 0 ends the generation. */
typedef int32_t (*farthing_on_text)(void* user, const char* text, size_t bytes);

/* how and result may be NULL. The text call takes the prompt as it is (special tokens in it are parsed, a beginning-of-text token is
 * put before it where the model wants one); chat templates are applied by the Python interface. */
FARTHING_API farthing_status farthing_generate(farthing_engine* engine, const int32_t* prompt, size_t count,
                                               const farthing_generation* how, farthing_on_token on_token, void* user,
                                               farthing_result* result);
FARTHING_API farthing_status farthing_generate_text(farthing_engine* engine, const char* prompt,
                                                    const farthing_generation* how, farthing_on_text on_text,
                                                    void* user, farthing_result* result);
/* Called with the number of the prompt and its new id; 0 ends that text. */
typedef int32_t (*farthing_on_token_of)(void* user, size_t prompt, int32_t id);
/* Continues `count` prompts, prompts[i] of counts[i] ids, as farthing_generate would one by one, at most `batch` (1 to 256) of them in one
 * pass. how applies to all; reuse_prefix and restart_window must be 0. results: NULL, or `count` of them, each with its size set.
 * The text so far is forgotten. FARTHING_REQUEST for recurrent models, TensorRT, and drafts that follow one text only (mtp, ftp, model). */
FARTHING_API farthing_status farthing_generate_all(farthing_engine* engine, const int32_t* const* prompts,
                                                   const size_t* counts, size_t count, const farthing_generation* how,
                                                   size_t batch, farthing_on_token_of on_token, void* user,
                                                   farthing_result* results);
/* Ends a running generation after its current pass; from any thread. */
FARTHING_API void farthing_cancel(farthing_engine* engine);

FARTHING_API farthing_status farthing_save_state(farthing_engine* engine, const char* path);
FARTHING_API farthing_status farthing_load_state(farthing_engine* engine, const char* path);

/* An image of a prompt, for bundles of vision-language models. Read during the call only. */
typedef struct farthing_image {
  size_t size; /* sizeof(farthing_image) */
  int64_t height, width;
  const uint8_t* rgb; /* red, green, blue of each pixel, rows from the top; EXIF rotation is the caller's affair */
  int64_t stride;     /* bytes from a row to the next; 0 = 3 * width */
  const char* level;  /* how many of its rows stay: "full", "r50", ... of the bundle; NULL = its own choice */
} farthing_image;
#define FARTHING_IMAGE_INIT {sizeof(farthing_image), 0, 0, NULL, 0, NULL}

/* farthing_generate and farthing_generate_text with `image_count` images. The prompt has the image marker once for each, in order, as the
 * id of the bundle or as the text of that special token ("<image>"), and ends with text. FARTHING_REQUEST for another number of markers,
 * an unknown level, an image without pixels or with more than 2^28, and for bundles or backends that take none. */
FARTHING_API farthing_status farthing_generate_images(farthing_engine* engine, const int32_t* prompt, size_t count,
                                                      const farthing_image* images, size_t image_count,
                                                      const farthing_generation* how, farthing_on_token on_token,
                                                      void* user, farthing_result* result);
FARTHING_API farthing_status farthing_generate_text_images(farthing_engine* engine, const char* prompt,
                                                           const farthing_image* images, size_t image_count,
                                                           const farthing_generation* how, farthing_on_text on_text,
                                                           void* user, farthing_result* result);

/* Drawing, with bundles of image models (farthing export llamagen | nar | elm | token-shuffle | gsd | lantern ...). A drawer is for one thread
 * at a time, except farthing_drawer_cancel().
 *
 *   farthing_drawer* drawer;
 *   farthing_drawer_info info = FARTHING_DRAWER_INFO_INIT;
 *   farthing_drawer_open("build/images", NULL, &drawer);
 *   farthing_drawer_about(drawer, &info);
 *   uint8_t* rgb = malloc(3 * info.side * info.side);
 *   int64_t label = 7;
 *   farthing_draw(drawer, &label, 1, NULL, NULL, NULL, NULL, 0, rgb, 3 * info.side * info.side, NULL);
 *   farthing_write_png("seven.png", rgb, 1, info.side, info.side, 0); */
typedef struct farthing_drawer farthing_drawer;

typedef struct farthing_drawer_options {
  size_t size;             /* sizeof(farthing_drawer_options) */
  int32_t threads;         /* 0 = all cores */
  int32_t skip_hashes;     /* 1 = do not check SHA-256 of the files when opening */
  const char* onnxruntime; /* as in farthing_options */
  const char* ops_library; /* as in farthing_options */
} farthing_drawer_options;
#define FARTHING_DRAWER_OPTIONS_INIT {sizeof(farthing_drawer_options), 0, 0, NULL, NULL}

/* options may be NULL. On failure *drawer is NULL; FARTHING_BUNDLE for a bundle of a model that does not draw. */
FARTHING_API farthing_status farthing_drawer_open(const char* bundle, const farthing_drawer_options* options,
                                                  farthing_drawer** drawer);
FARTHING_API void farthing_drawer_close(farthing_drawer* drawer); /* NULL is fine */

typedef struct farthing_drawer_info {
  size_t size;        /* sizeof(farthing_drawer_info) */
  int64_t codes;      /* a code is 0 to codes - 1 */
  int64_t tokens;     /* codes of an image */
  int64_t side;       /* pixels along a side of the square */
  int64_t classes;    /* a class is 0 to classes - 1; 0 = the model draws texts */
  int64_t text_width; /* features of a row of a text; 0 = the model draws classes */
  int64_t text_rows;  /* most rows of a text; 0 as above */
  const char*
      modes; /* what farthing_drawing.decode may be, "plain, exact, grouped"; valid until the drawer is closed */
  const char* decode; /* which of them is the default */
  const char* drafts; /* "none", "jacobi", "eagle" */
  int32_t guided;     /* 1 = it has rows without a condition, so that there is guidance */
} farthing_drawer_info;
#define FARTHING_DRAWER_INFO_INIT {sizeof(farthing_drawer_info), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0}
FARTHING_API farthing_status farthing_drawer_about(const farthing_drawer* drawer, farthing_drawer_info* info);

typedef struct farthing_drawing {
  size_t size;   /* sizeof(farthing_drawing) */
  uint64_t seed; /* image i is drawn under seed + i: the same codes here and in Python, whatever stands beside it */
  double temperature; /* 0 = always the best code */
  int64_t top_k;      /* 0 = off */
  double top_p;       /* 1 = off */
  double guidance;    /* scale, 0 to 100; 1 = none; -1 = 4, or none where the model has no rows without a condition */
  int64_t interval;   /* codes that are guided; -1 = all */
  const char*
      schedule; /* "constant", "linear", "half_linear", "cosine", "log", "square", "square_root"; NULL = constant */
  const char*
      decode; /* "plain", or how drafts are accepted: "exact", "grouped", "partition", "neighbourhood"; NULL = the bundle's */
  int64_t draft_length; /* drafts a round at most; 0 = the bundle's */
  const int64_t*
      prefix; /* [count, prefix_codes]: the first codes of each image, in raster order, with decode plain; NULL = none */
  int64_t prefix_codes;
  const float* text_embeds; /* [count, text_rows, text_width] instead of classes, without padding */
  int64_t text_rows;
} farthing_drawing;
#define FARTHING_DRAWING_INIT {sizeof(farthing_drawing), 0, 1, 0, 1, -1, -1, NULL, NULL, 0, NULL, 0, NULL, 0}

typedef struct farthing_drawn {
  size_t size;        /* sizeof(farthing_drawn) */
  farthing_stop stop; /* FARTHING_STOP_LENGTH = all of it was drawn */
  int64_t passes;     /* of the model, over all images */
  int64_t rounds, judged,
      accepted;           /* passes over drafts, drafts that were looked at, drafts that hold; 0 with decode plain */
  double mean_chance;     /* of the judged drafts to be accepted */
  double total_variation; /* estimate, a judged draft, of what the rule moves; 0 with plain and exact */
  double model_seconds, choosing_seconds, pixel_seconds, total_seconds; /* wall clock */
} farthing_drawn;
#define FARTHING_DRAWN_INIT {sizeof(farthing_drawn), FARTHING_STOP_LENGTH, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* Called after every pass with the codes that are drawn and those of all images; 0 ends the drawing. */
typedef int32_t (*farthing_on_progress)(void* user, int64_t done, int64_t all);

/* Draws `count` images: of classes [count], or NULL with how->text_embeds. Writes codes [count, tokens], row by row, and rgb
 * [count, side, side, 3]; either may be NULL with a capacity of 0 (codes in numbers, rgb in bytes). how, on_progress and result may be
 * NULL. A drawing that was ended early is FARTHING_OK with another stop: codes not drawn are 0, and rgb is not written. */
FARTHING_API farthing_status farthing_draw(farthing_drawer* drawer, const int64_t* classes, size_t count,
                                           const farthing_drawing* how, farthing_on_progress on_progress, void* user,
                                           int64_t* codes, size_t code_capacity, uint8_t* rgb, size_t rgb_capacity,
                                           farthing_drawn* result);
/* Pixels [count / tokens, side, side, 3] of codes. */
FARTHING_API farthing_status farthing_draw_pixels(farthing_drawer* drawer, const int64_t* codes, size_t count,
                                                  uint8_t* rgb, size_t rgb_capacity);
/* Ends a running drawing after its current pass; from any thread. */
FARTHING_API void farthing_drawer_cancel(farthing_drawer* drawer);

/* Writes `count` images uint8 [count, height, width, 3] as one PNG, `columns` beside each other; 0 = about a square. The file is whole or
 * not there. */
FARTHING_API farthing_status farthing_write_png(const char* path, const uint8_t* rgb, int64_t count, int64_t height,
                                                int64_t width, int64_t columns);

#ifdef __cplusplus
}
#endif
#endif
