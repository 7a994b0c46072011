"""Names of a UNet's tensors in the checkpoints that Stable Diffusion's and MVDream's authors publish."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_names(unet):
    """A diffusers UNet's tensors by their original names."""
    layers, places = unet.config.layers_per_block, dict(ENDS)
    for i, block in enumerate(unet.config.down_block_types):
        for j in range(layers):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{(layers + 1) * i + j + 1}.0"
            if "CrossAttn" in block:
                places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{(layers + 1) * i + j + 1}.1"
        places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(layers + 1) * (i + 1)}.0.op"
    for i, block in enumerate(unet.config.up_block_types):
        crossed = "CrossAttn" in block
        for j in range(layers + 1):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{(layers + 1) * i + j}.0"
            if crossed:
                places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{(layers + 1) * i + j}.1"
        places[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{(layers + 1) * i + layers}.{2 if crossed else 1}"
    places |= {"mid_block.attentions.0": "middle_block.1"}
    places |= {f"mid_block.resnets.{j}": f"middle_block.{2 * j}" for j in range(2)}
    renamed = {}
    for key, value in unet.state_dict().items():
        place = max((p for p in places if key.startswith(f"{p}.")), key=len)
        rest = key.removeprefix(f"{place}.")
        if "resnets" in place:
            layer, kind = rest.rsplit(".", 1)
            rest = f"{RESNET[layer]}.{kind}"
        renamed[f"{places[place]}.{rest}"] = value
    return renamed


def original_vae_names(vae):
    """A diffusers VAE's tensors by their original names."""
    blocks, layers = len(vae.config.block_out_channels), vae.config.layers_per_block
    places = {}
    for i in range(blocks):
        up = blocks - 1 - i
        for j in range(layers + 1):
            places[f"encoder.down_blocks.{i}.resnets.{j}."] = f"encoder.down.{i}.block.{j}."
            places[f"decoder.up_blocks.{i}.resnets.{j}."] = f"decoder.up.{up}.block.{j}."
        places[f"encoder.down_blocks.{i}.downsamplers.0."] = f"encoder.down.{i}.downsample."
        places[f"decoder.up_blocks.{i}.upsamplers.0."] = f"decoder.up.{up}.upsample."
    for end in ("encoder", "decoder"):
        places |= {f"{end}.mid_block.resnets.{i}.": f"{end}.mid.block_{i + 1}." for i in range(2)}
        places[f"{end}.mid_block.attentions.0."] = f"{end}.mid.attn_1."
    parts = {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    renamed = {}
    for key, value in vae.state_dict().items():
        place = max((p for p in places if key.startswith(p)), key=len, default="")
        rest = key.removeprefix(place)
        inside = attention if "attentions" in place else parts
        for new, old in inside.items():
            rest = rest.replace(f"{new}.", f"{old}.")
        if "attentions" in place and value.ndim == 2:
            value = value[:, :, None, None]
        renamed[places.get(place, "") + rest] = value
    return renamed
