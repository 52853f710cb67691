"""Make the store of pairs: python tools/synthesize.py CONFIG."""

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import run_store_tool

if __name__ == "__main__":
    run_store_tool(
        "synthesize",
        "Captions to a store of synthetic pairs, as the config's 'synthesis' says: encode, draw (or retrieve), tag, "
        "refine. Can be stopped at any time; the same command goes on where it was.",
    )
