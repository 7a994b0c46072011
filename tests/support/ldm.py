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
