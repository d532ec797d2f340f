/* The C interface from C: what it refuses, and that a good request works. Prints one line per check that failed.
 *
 *   capi_check BUNDLE ONNXRUNTIME OPS SCRATCH_FILE */
#include <farthing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int good, const char* what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, farthing_last_error());
  ++failures;
}

struct seen {
  int32_t ids[64];
  int count, stop_at;
};

static int32_t collect(void* user, int32_t id) {
  struct seen* seen = user;
  seen->ids[seen->count++] = id;
  return seen->count != seen->stop_at;
}

struct heard {
  struct seen of[3];
};

static int32_t collect_of(void* user, size_t prompt, int32_t id) {
  struct heard* heard = user;
  return collect(&heard->of[prompt], id);
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  farthing_options options = FARTHING_OPTIONS_INIT;
  options.onnxruntime = argv[2];
  options.ops_library = argv[3];
  options.threads = 1;
  options.context = 64;
  farthing_engine* engine = NULL;

  expect(farthing_open(NULL, &options, &engine) == FARTHING_REQUEST, "open without a path");
  expect(farthing_open(argv[1], &options, NULL) == FARTHING_REQUEST, "open without a place for the engine");
  expect(farthing_open("no/such/bundle", &options, &engine) == FARTHING_BUNDLE && engine == NULL, "open of nothing");
  expect(strstr(farthing_last_error(), "expected") != NULL, "the error says what was expected");
  farthing_options odd = options;
  odd.size = 0;
  expect(farthing_open(argv[1], &odd, &engine) == FARTHING_REQUEST, "options of size 0");
  odd = options;
  odd.context = INT64_MAX;
  expect(farthing_open(argv[1], &odd, &engine) == FARTHING_REQUEST, "an absurd context");
  odd = options;
  odd.threads = -1;
  expect(farthing_open(argv[1], &odd, &engine) == FARTHING_REQUEST, "negative threads");

  if (farthing_open(argv[1], &options, &engine) != FARTHING_OK) {
    printf("failed: open (%s)\n", farthing_last_error());
    return 1;
  }
  farthing_engine* second = NULL;
  expect(farthing_open(argv[1], &options, &second) == FARTHING_OK, "a second engine on one bundle");

  const int32_t prompt[] = {5, 6, 7}, outside[] = {5, 1 << 30}, below[] = {-1};
  int32_t many[65] = {0};
  const float* logits;
  size_t count;
  expect(farthing_logits(engine, &logits, &count) == FARTHING_REQUEST, "logits before a prefill");
  expect(farthing_prefill(engine, prompt, 0) == FARTHING_REQUEST, "empty prompt");
  expect(farthing_prefill(engine, outside, 2) == FARTHING_REQUEST, "id above the vocabulary");
  expect(farthing_prefill(engine, below, 1) == FARTHING_REQUEST, "negative id");
  expect(farthing_prefill(engine, many, 65) == FARTHING_REQUEST, "prompt above the context");
  expect(farthing_rewind(engine, 1) == FARTHING_REQUEST, "rewind ahead");
  expect(farthing_length(engine) == 0, "refused calls change nothing");

  farthing_generation how = FARTHING_GENERATION_INIT;
  farthing_result result = FARTHING_RESULT_INIT;
  how.ignore_eos = 1;
  how.max_new_tokens = 20;
  struct seen first = {{0}, 0, -1}, again = {{0}, 0, -1}, cut = {{0}, 0, 3};
  expect(farthing_generate(engine, prompt, 3, &how, collect, &first, &result) == FARTHING_OK, "generate");
  expect(first.count == 20 && result.new_tokens == 20 && result.passes == 20 && result.rows == 22, "counts");
  expect(result.stop == FARTHING_STOP_LENGTH, "stopped by length");
  expect(farthing_generate(second, prompt, 3, &how, collect, &again, NULL) == FARTHING_OK, "generate on the second");
  expect(memcmp(first.ids, again.ids, sizeof first.ids) == 0, "both engines agree");
  expect(farthing_generate(engine, prompt, 3, &how, collect, &cut, &result) == FARTHING_OK, "generate, cut short");
  expect(cut.count == 3 && result.stop == FARTHING_STOP_CALLBACK, "stopped by the callback");

  /* Three texts, two at a time: each as it is alone. */
  struct heard heard = {{{{0}, 0, -1}, {{0}, 0, 5}, {{0}, 0, -1}}};
  const int32_t short_prompt[] = {7};
  const int32_t* prompts[] = {prompt, short_prompt, prompt};
  const size_t counts[] = {3, 1, 3}, nothing[] = {3, 0, 3};
  farthing_result results[] = {FARTHING_RESULT_INIT, FARTHING_RESULT_INIT, FARTHING_RESULT_INIT};
  expect(farthing_generate_all(engine, prompts, counts, 3, &how, 2, collect_of, &heard, results) == FARTHING_OK, "three texts");
  expect(memcmp(first.ids, heard.of[0].ids, sizeof first.ids) == 0, "the first text is as alone");
  expect(memcmp(first.ids, heard.of[2].ids, sizeof first.ids) == 0, "the third text is as alone");
  expect(results[1].stop == FARTHING_STOP_CALLBACK && results[1].new_tokens == 5, "the second was cut short");
  expect(results[2].stop == FARTHING_STOP_LENGTH && results[2].passes == 20, "the third was not");
  expect(farthing_generate_all(engine, prompts, nothing, 3, &how, 2, NULL, NULL, NULL) == FARTHING_REQUEST, "an empty prompt");
  expect(farthing_generate_all(engine, prompts, counts, 3, &how, 0, NULL, NULL, NULL) == FARTHING_REQUEST, "no batch");
  expect(farthing_generate_all(engine, NULL, counts, 3, &how, 2, NULL, NULL, NULL) == FARTHING_REQUEST, "no prompts");
  expect(farthing_length(engine) == 0, "several texts leave none behind");
  how.temperature = -1;
  expect(farthing_generate(engine, prompt, 3, &how, collect, &cut, &result) == FARTHING_REQUEST, "negative temperature");
  how.temperature = 0;
  how.max_new_tokens = 0;
  expect(farthing_generate(engine, prompt, 3, &how, collect, &cut, &result) == FARTHING_REQUEST, "no new tokens");
  how.max_new_tokens = INT64_MAX;
  struct seen full = {{0}, 0, -1};
  expect(farthing_generate(engine, prompt, 3, &how, collect, &full, &result) == FARTHING_OK, "generate to the end");
  expect(result.stop == FARTHING_STOP_CONTEXT && full.count == 62, "stopped by the context");

  /* Save, go on; load into the other, go on: the same. */
  how.max_new_tokens = 10;
  expect(farthing_rewind(engine, 0) == FARTHING_OK && farthing_prefill(engine, prompt, 3) == FARTHING_OK, "prefill");
  expect(farthing_save_state(engine, argv[4]) == FARTHING_OK, "save");
  expect(farthing_prefill(engine, prompt, 1) == FARTHING_OK && farthing_logits(engine, &logits, &count) == FARTHING_OK, "next");
  float* kept = malloc(count * sizeof *kept);
  memcpy(kept, logits, count * sizeof *kept);
  expect(farthing_load_state(second, argv[4]) == FARTHING_OK && farthing_length(second) == 3, "load");
  expect(farthing_prefill(second, prompt, 1) == FARTHING_OK && farthing_logits(second, &logits, &count) == FARTHING_OK, "next");
  expect(memcmp(kept, logits, count * sizeof *kept) == 0, "the restored sequence goes on bit for bit");
  free(kept);
  FILE* file = fopen(argv[4], "r+b");
  fseek(file, 300, SEEK_SET);
  fputc('x', file);
  fclose(file);
  expect(farthing_load_state(second, argv[4]) == FARTHING_BUNDLE, "an edited state");
  expect(farthing_length(second) == 4, "a refused state changes nothing");
  expect(farthing_load_state(second, argv[1]) != FARTHING_OK, "a folder as state");
  expect(farthing_save_state(second, "no/such/folder/state") == FARTHING_REQUEST, "a state that cannot be written");

  farthing_close(second);
  farthing_close(engine);
  farthing_close(NULL);
  printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  printf("ids"); /* to compare machines by */
  for (int i = 0; i < first.count; ++i) printf(" %d", (int)first.ids[i]);
  printf("\n");
  return failures != 0;
}
