// Prints what llama.cpp's own eval-callback example prints, with llama.cpp's own printing code (common/debug.cpp, compiled in
// as it is). Only the option parsing of the example is left out, and its logger is a printf.
//   eval_callback MODEL.gguf ID ID ID ...
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common.h"
#include "debug.h"
#include "llama.h"
#include "log.h"

common_log* common_log_main() { return nullptr; }
int common_log_get_verbosity_thold() { return 1; }
void common_log_add(common_log*, ggml_log_level, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
}

int main(int argc, char** argv) {
  std::vector<llama_token> tokens;
  for (int i = 2; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
  common_debug_cb_user_data data;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 64;
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = common_debug_cb_eval;
  params.cb_eval_user_data = &data;
  llama_context* context = llama_init_from_model(model, params);
  return llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size())));
}
