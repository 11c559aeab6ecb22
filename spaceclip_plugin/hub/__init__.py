"""Heads as files: written whole, read strictly, in a folder of one's own or on the Hugging Face Hub.

`folder` knows the two files of a head, `weights` the safetensors one, `repository` where they come from and go to, and
`model_card` the page that travels with them.
"""
