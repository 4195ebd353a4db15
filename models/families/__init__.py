"""One module a family of models. Each has

STEPS              how long the committed model was trained
SPECIALS, ENDS     of its tokenizer, as corpus.train_tokenizer takes them
CONTEXT            positions
make_model()       untrained, float32
loss(model, inputs, targets, generator)
                   mean cross-entropy in nats a token, a scalar; inputs and targets are int64 [batch, length]
settle(model)      rounds the weights, in place, to what is stored
store(model, folder)
                   writes config.json and model.safetensors
largest_logit(model, inputs)
sample             whether the model continues texts
"""
