# The beams and the order of synthcap_reranked.py for synthcap_text_mix.py and what options make of it.
_base_ = ["synthcap_text_mix.py"]
model = dict(
    rerank=dict(type="CaptionRanker", scores=dict(image=dict(type="ImageScore"))),
    head=dict(generation=dict(num_beams=8)),
)
