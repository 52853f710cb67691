"""prepare-data lists what is missing and where to get it."""

from command_line import run_command


def test_the_tool_lists_what_is_missing_and_where_to_get_it(tmp_path):
    said = run_command(tmp_path, "prepare-data", "coco", "flickr30k", "nocaps", "--source", ".", status=1)
    for words in ("6 thing(s)", "caption_datasets.zip", "val2014.zip", "flickr30k-images", "nocaps.org/download"):
        assert words in said
    assert not list(tmp_path.iterdir())
    assert "'coco'" in run_command(tmp_path, "prepare-data", "imagenet", status=2)
