"""A small Stable Diffusion of diffusers' and transformers' real classes, saved as a folder."""

import json

WORDS = ["a</w>", "dog</w>", "cat</w>", "red</w>", "house</w>", "on</w>", "the</w>"]


def write(folder, scheduler="DDIMScheduler", seed=0, **scheduler_options):
    """Builds the pipeline with random weights and saves it in ``folder``; returns the path."""
    import diffusers
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) + end for end in ("", "</w>") for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(word for word in WORDS if word not in letters)]
    merges, known = [], set(letters)
    for word in WORDS:
        parts = [*word.removesuffix("</w>")[:-1], word.removesuffix("</w>")[-1] + "</w>"]
        while len(parts) > 1:
            pair = f"{parts[-2]} {parts[-1]}"
            merges.append(pair)
            parts[-2:] = [parts[-2] + parts[-1]]
            if parts[-1] not in known:
                known.add(parts[-1])
                if parts[-1] not in vocabulary:
                    vocabulary.append(parts[-1])
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    torch.manual_seed(seed)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
    )
    for parameter in text.parameters():  # so that the caption matters for the picture
        parameter.data.mul_(4)
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **scheduler_options}
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(diffusers, scheduler)(**options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return str(folder)
