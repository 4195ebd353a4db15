/* Records what an inference engine computes, from C, C++, Rust or anything else that can call C.
 *
 *     paritrace_open(&(paritrace_info){.size = sizeof(paritrace_info), .engine = "mine", .engine_version = "1.2"});
 *     paritrace_step(0, tokens, count);                        // before each forward call
 *     paritrace_record("attn.q", layer, q, PARITRACE_F32, 2, (int64_t[]){count, 512}, NULL);
 *     paritrace_close();
 *
 * Nothing happens, and a record costs one branch, until the environment says where the trace goes:
 *     PARITRACE_DIR        the directory; unset: off
 *     PARITRACE_MODE       full (default) | digest | stats
 *     PARITRACE_SITES      what to record, as globs: attn.q*,layers.3.*,logits; unset: all
 *     PARITRACE_STEPS      which forward calls: 0-3,7,12-; unset: all
 *     PARITRACE_OVERWRITE  1: a trace that stands there is replaced; else the new one goes beside it, see paritrace_open
 *     PARITRACE_BUFFER_MB  memory for what is not yet written, 256 by default; an engine that is ahead of it waits
 *     PARITRACE_RANK       this process among those that share the directory; by default what the launcher says
 * With PARITRACE_DISABLED defined, all of it compiles to nothing and no library is needed.
 *
 * Every function may be called from any thread, and returns PARITRACE_OK or one of the negative codes below; none aborts,
 * none lets an exception out. What was recorded survives a kill of the process; see docs/capture.md.
 */
#ifndef PARITRACE_CAPTURE_H_
#define PARITRACE_CAPTURE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Codes and types are numbers of the ABI: new ones are added behind, none changes. */
enum {
  PARITRACE_OK = 0,
  PARITRACE_ERROR_USAGE = -1,  /* an argument, or a variable of the environment, is wrong */
  PARITRACE_ERROR_IO = -2,     /* the trace cannot be written: a full disk, no permission; nothing more is recorded */
  PARITRACE_ERROR_MEMORY = -3, /* no memory for the copy */
  PARITRACE_ERROR_STATE = -4,  /* open already, or not open */
  PARITRACE_ERROR_INTERNAL = -5
};

enum {
  PARITRACE_F64 = 0,
  PARITRACE_F32 = 1,
  PARITRACE_F16 = 2,
  PARITRACE_BF16 = 3,
  PARITRACE_F8_E4M3 = 4,
  PARITRACE_F8_E5M2 = 5,
  PARITRACE_I8 = 6,
  PARITRACE_I16 = 7,
  PARITRACE_I32 = 8,
  PARITRACE_I64 = 9,
  PARITRACE_U8 = 10,
  PARITRACE_U16 = 11,
  PARITRACE_U32 = 12,
  PARITRACE_U64 = 13,
  PARITRACE_BOOL = 14
};

enum { PARITRACE_MAX_AXES = 16 };

/* What the trace's header says. Any string may be NULL: not known. */
typedef struct paritrace_info {
  size_t size;           /* sizeof(paritrace_info), so that the struct can grow */
  const char* directory; /* where to record if PARITRACE_DIR is not set; NULL: then nothing is recorded */
  const char* engine;    /* "my-engine": its naming rules are used when the trace is read, if there are any */
  const char* engine_version;
  const char* model;        /* name of the model */
  const char* architecture; /* "llama", "bert", ... */
  const char* model_file;
  const char* arithmetic; /* how the engine rounds: "f32", "torch-bf16", "ggml-cpu", ...; NULL: to be inferred */
} paritrace_info;

#ifndef PARITRACE_DISABLED

#if defined(__GNUC__)
#define PARITRACE_EXPORT __attribute__((visibility("default")))
#else
#define PARITRACE_EXPORT
#endif

/* Begins the process's trace, if the environment or info->directory asks for one. info may be NULL.
 * The rank goes into the name: rank 0 records in the directory itself, rank 3 in its folder rank-3. Where another process
 * or an earlier run has recorded there, and PARITRACE_OVERWRITE is not set, the next free rank-N is taken, with a line on
 * standard error: nothing is overwritten and nothing is lost. An error, too, stands on standard error in one line. */
PARITRACE_EXPORT int paritrace_open(const paritrace_info* info);

/* Begins the next forward call: step 0 for the first call, 1 for the second, and so on. What is recorded before any call
 * belongs to step 0.
 *   start   position of its first token
 *   tokens  [count] its token ids; NULL: not known */
PARITRACE_EXPORT int paritrace_step(int64_t start, const int32_t* tokens, int64_t count);

/* Records one tensor, copied (or reduced to its digest) before the call returns.
 *   site     a site without its layer ("attn.q", "embed", "logits"), or the engine's own name of the tensor
 *   layer    its layer, from 0; -1: it belongs to none, or `site` names the layer itself
 *   data     in host memory
 *   dtype    PARITRACE_F32, ...
 *   axes     number of axes, 0 to PARITRACE_MAX_AXES
 *   shape    [axes] outermost first
 *   strides  [axes] in values, not bytes, 0 and negative ones too; NULL: row-major without gaps
 * A name that comes again in one step gets "#2", "#3", ... */
PARITRACE_EXPORT int paritrace_record(const char* site, int layer, const void* data, int dtype, int axes,
                                      const int64_t* shape, const int64_t* strides);

/* Waits until all that was recorded so far is in the files, where a kill cannot take it back. */
PARITRACE_EXPORT int paritrace_flush(void);

/* Writes what is left and marks the trace complete. Without it, exit() still writes what is left, and the trace stays
 * "open". Afterwards another may be opened. PARITRACE_OK, too, where nothing is open. */
PARITRACE_EXPORT int paritrace_close(void);

/* The last error of the calling thread, in one line; "" if there was none. Valid until its next call. */
PARITRACE_EXPORT const char* paritrace_error(void);

/* Not 0 while what is recorded now is kept. Read-only. */
PARITRACE_EXPORT extern int paritrace_recording;

/* From C and C++, the branch comes before the call, and the arguments are not even computed while recording is off. */
#if defined(__GNUC__)
#define PARITRACE_ON() __builtin_expect(__atomic_load_n(&paritrace_recording, __ATOMIC_RELAXED) != 0, 0)
#else
#define PARITRACE_ON() (*(volatile int*)&paritrace_recording != 0)
#endif
#define paritrace_record(...) (PARITRACE_ON() ? (paritrace_record)(__VA_ARGS__) : PARITRACE_OK)

#else /* PARITRACE_DISABLED */

/* Functions, so that what an engine computes for them counts as used; never called for a record. */
static inline int paritrace_open(const paritrace_info* info) { return (void)info, PARITRACE_OK; }
static inline int paritrace_step(int64_t start, const int32_t* tokens, int64_t count) {
  return (void)start, (void)tokens, (void)count, PARITRACE_OK;
}
static inline int paritrace_record_nothing(const char* site, int layer, const void* data, int dtype, int axes,
                                           const int64_t* shape, const int64_t* strides) {
  return (void)site, (void)layer, (void)data, (void)dtype, (void)axes, (void)shape, (void)strides, PARITRACE_OK;
}
static inline int paritrace_flush(void) { return PARITRACE_OK; }
static inline int paritrace_close(void) { return PARITRACE_OK; }
static inline const char* paritrace_error(void) { return ""; }
#define PARITRACE_ON() 0
#define paritrace_record(...) (0 ? paritrace_record_nothing(__VA_ARGS__) : PARITRACE_OK)

#endif

#ifdef __cplusplus
}
#endif

#endif /* PARITRACE_CAPTURE_H_ */
