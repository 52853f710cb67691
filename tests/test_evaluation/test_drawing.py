"""Text fits where it is drawn."""

from PIL import ImageFont

from synthcap_mm.evaluation.drawing import wrap_text


def test_wrap_keeps_all_words_within_the_width():

    font = ImageFont.load_default(13)
    text = "a man in a very long " + "x" * 90 + " coat stands near the water"
    lines = wrap_text(text, font, 200)
    assert len(lines) > 3 and all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
