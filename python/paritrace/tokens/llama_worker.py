"""llama.cpp's tokenizer in a process of its own, because it aborts on some texts (a byte sequence that decodes to no code
point, say) and would take us with it. `python -m paritrace.tokens.llama_worker FILE.gguf`: each request is a line of JSON
`[special, base64]`, each answer a line with the ids, or null where llama.cpp refuses.
"""

import base64
import ctypes
import json
import sys


def main():
    import llama_cpp as api

    quiet = api.llama_log_callback(lambda level, text, _: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    parameters = api.llama_model_default_params()
    parameters.vocab_only = True
    parameters.n_gpu_layers = 0
    model = api.llama_model_load_from_file(sys.argv[1].encode(), parameters)
    vocabulary = api.llama_model_get_vocab(model)
    for line in sys.stdin.buffer:
        special, text = json.loads(line)
        raw = base64.b64decode(text)
        room = len(raw) + 8
        count = -1
        for _ in range(2):
            buffer = (api.llama_token * room)()
            count = api.llama_tokenize(vocabulary, raw, len(raw), buffer, room, special, True)
            if count >= 0:
                break
            room = -count
        sys.stdout.write(json.dumps(list(buffer[:count]) if count >= 0 else None) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
