"""Encode real photos: python tools/encode_images.py CONFIG."""

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import run_store_tool

if __name__ == "__main__":
    run_store_tool(
        "encode_images",
        "Encode and tag the real photos of the config's 'photo_stores' (validation and test sets), with the encoder "
        "and the tag provider of its 'synthesis', so that every evaluation costs decoding only.",
    )
