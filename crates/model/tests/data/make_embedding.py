"""Writes `embedding`: a tiny random Qwen3 as Qwen3-Embedding is saved (without head and prefix), and what transformers computes with it.

    python make_embedding.py            with torch, transformers, tokenizers and safetensors
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent / "embedding"
PROMPT = (
    '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer '
    'can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n'
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
TEXTS = ["What is the capital of China?", "The capital of China is Beijing.", "Ü 東", "Gravity attracts two bodies. " * 12]
QUERY, DOCUMENTS = TEXTS[0], TEXTS[1:]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("y", "e"), ("ye", "s"), ("n", "o"), ("t", "h"), ("i", "n"), ("Ġ", "t"), ("Ġt", "h"), ("a", "n")]
    vocab = {piece: i for i, piece in enumerate(alphabet + [a + b for a, b in merges])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    # As in Qwen3-Embedding: every text ends with this token.
    end = (SPECIAL[0], made.token_to_id(SPECIAL[0]))
    made.post_processor = processors.TemplateProcessing(single=f"$A {SPECIAL[0]}", special_tokens=[end])
    return made


def main():
    made = tokenizer()
    torch.manual_seed(14)
    config = transformers.Qwen3Config(
        vocab_size=made.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, initializer_range=0.2, tie_word_embeddings=True,
        eos_token_id=made.token_to_id(SPECIAL[0]), bos_token_id=None, num_labels=1, pad_token_id=None, rope_theta=1e6,
    )
    causal = transformers.Qwen3ForCausalLM(config).float().eval()
    for name, weight in causal.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    base = causal.model
    # Of its own generator: the class with labels starts from other random numbers.
    classes = transformers.Qwen3ForSequenceClassification(config).float().eval()
    classes.model.load_state_dict(base.state_dict())

    HERE.mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in base.state_dict().items()}, HERE / "model.safetensors")
    save_file({"score.weight": classes.score.weight.detach()}, HERE / "score.safetensors")
    made.save(str(HERE / "tokenizer.json"), pretty=False)
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "eos_token_id"]
    written = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6, **{k: getattr(config, k) for k in keys}}

    def states(ids):
        with torch.no_grad():
            return base(torch.tensor([ids])).last_hidden_state[0]

    def unit(x):
        return torch.nn.functional.normalize(x, dim=0)

    embedded = []
    for text in TEXTS:
        ids = made.encode(text).ids
        hidden = states(ids)
        embedded.append({"text": text, "ids": ids, "last": unit(hidden[-1]).tolist(), "mean": unit(hidden.mean(0)).tolist()})
    scored = []
    yes, no = made.token_to_id("yes"), made.token_to_id("no")
    for instruction in [INSTRUCTION, "Find a proof"]:
        for document in DOCUMENTS:
            prompt = PROMPT.format(instruction=instruction, query=QUERY, document=document)
            ids = torch.tensor([made.encode(prompt, add_special_tokens=False).ids])
            with torch.no_grad():
                logits = causal(ids).logits[0, -1]
                label = classes(ids).logits[0, 0]
            score = torch.softmax(logits[[yes, no]], 0)[0]
            scored.append({"instruction": instruction, "document": document, "causal": score.item(), "class": torch.sigmoid(label).item()})

    def write(name, value):
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(json.dumps(value, ensure_ascii=False) + "\n")

    write("config.json", written)
    write("modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])
    write("1_Pooling/config.json", {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True,
        "include_prompt": True,
    })
    query = f"Instruct: {INSTRUCTION}\nQuery:"
    write("config_sentence_transformers.json", {"prompts": {"query": query, "document": ""}, "default_prompt_name": None})
    prompted = made.encode(query + QUERY).ids
    write("reference.json", {
        "transformers": transformers.__version__, "embedded": embedded, "query": QUERY, "scored": scored,
        "prompted": unit(states(prompted)[-1]).tolist(),
    })


if __name__ == "__main__":
    main()
