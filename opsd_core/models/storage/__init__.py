"""Policies on disk: what is read is checked tensor by tensor, what is written is what was trained.

files.py             a folder's files: pointers, pipes, JSON that is none, indices, quantised models
headers.py           a safetensors file's header
sizes.py             the sizes in config.json against what the files hold
loading.py           a folder, an adapter folder or a hub id in memory
gguf.py              a GGUF file, dequantised
gguf_header.py       its header, read before a library believes it
saving.py            a plain safetensors folder
adapter_folders.py   a peft adapter folder
serving.py           what a policy was judged with, written into the folder's own files
skeleton.py          a stored model without its weights: its configuration, whether adapters fit
verify.py            the stored folder against the policy in memory
"""
