# SynTIC+ whose ranker also asks a second encoder, of other towers (research/real/second_encoder.py makes its weights).
# Its score weighs as much as the first encoder's, which is no choice: neither encoder is to decide by its own pictures.
_base_ = ["synthcap_plus.py"]
custom_imports = dict(imports=["research.real.dual_encoder_backbone", "research.real.second_encoder"])
second = dict(type="SecondEncoder", weights="{{$SYNTHCAP_REAL_SECOND:work_dirs/second_encoder.pth}}")
synthesis = dict(other_encoders=dict(second=second))
model = dict(rerank=dict(scores=dict(second=dict(type="ImageScore", encoder="second", weight=0.5))))
