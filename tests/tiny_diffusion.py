"""Small pipelines of diffusers' and transformers' real classes with random weights, saved as folders."""

import json

WORDS = ["a</w>", "dog</w>", "cat</w>", "red</w>", "house</w>", "on</w>", "the</w>"]


def write_tokenizer(folder):
    """CLIP's tokenizer with a vocabulary of a few words; returns it and its size."""
    from transformers import CLIPTokenizer

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
    return tokenizer, len(vocabulary)


def text_model(size, projected=False, bos=0, **changes):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings = dict(
        vocab_size=size, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=bos, eos_token_id=1, pad_token_id=1, projection_dim=32, **changes,
    )  # fmt: skip
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**settings))
    for parameter in model.parameters():  # so that the caption matters for the picture
        parameter.data.mul_(4)
    return model


def vae(channels=4, **changes):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        **changes,
    )


def unet(**changes):
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32, "attention_head_dim": 2,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **changes})


def t5_parts(width):
    """A tokenizer of a few words as T5's fast one, and an encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word.removesuffix("</w>"): n for n, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    fast = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    t5 = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    settings = T5Config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return t5, T5EncoderModel(settings)


NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write(folder, scheduler="DDIMScheduler", seed=0, **scheduler_options):
    """Stable Diffusion 1.x; returns the path."""
    import diffusers
    import torch

    tokenizer, size = write_tokenizer(folder)
    torch.manual_seed(seed)
    text, denoiser, decoder = text_model(size), unet(), vae()
    pipe = diffusers.StableDiffusionPipeline(
        vae=decoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=getattr(diffusers, scheduler)(**{**NOISE, **scheduler_options}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return str(folder)


def write_xl(folder):
    """Stable Diffusion XL (and its Turbo): two text encoders, size conditioning."""
    import diffusers
    import torch

    tokenizer, size = write_tokenizer(folder)
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_model(size),
        text_encoder_2=text_model(size, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
            use_linear_projection=True,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(**NOISE),
    )
    pipe.save_pretrained(folder)
    return str(folder)


def write_sd3(folder):
    """Stable Diffusion 3: a transformer, three text encoders, flow matching."""
    import diffusers
    import torch

    tokenizer, size = write_tokenizer(folder)
    torch.manual_seed(0)
    t5, t5_encoder = t5_parts(width=64)
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_model(size, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=text_model(size, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder,
        tokenizer_3=t5,
    )
    pipe.save_pretrained(folder)
    return str(folder)


def write_flux(folder):
    """FLUX.1: CLIP and T5, guidance as an input of the transformer, packed latents."""
    import diffusers
    import torch

    tokenizer, size = write_tokenizer(folder)
    torch.manual_seed(0)
    t5, t5_encoder = t5_parts(width=32)
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_model(size),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder,
        tokenizer_2=t5,
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
    )
    pipe.save_pretrained(folder)
    return str(folder)


def write_pixart(folder):
    """PixArt-Sigma: T5 only, a transformer with adaptive layer norm, a diffusion scheduler."""
    import diffusers
    import torch

    torch.manual_seed(0)
    t5, t5_encoder = t5_parts(width=32)
    pipe = diffusers.PixArtSigmaPipeline(
        tokenizer=t5,
        text_encoder=t5_encoder,
        vae=vae(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=32,
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(**NOISE),
    )
    pipe.save_pretrained(folder)
    return str(folder)
