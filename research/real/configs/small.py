# configs/synthcap_custom.py as it ships, with the data root's encoder and photos: a captioner from a small text of one
# domain. SYNTHCAP_REAL_TEXT names the text, one sentence a line (research/real/small_texts.py writes them).
_base_ = ["../../../configs/synthcap_custom.py", "_base_/pool.py"]
work_root = "{{$SYNTHCAP_REAL_WORK:work_dirs/real}}"
custom_imports = dict(imports=["research.real.dual_encoder_backbone"])
name = "{{$SYNTHCAP_REAL_TEXT:flickr_3000_0}}"
captions = work_root + "/small/" + name + ".txt"
store = work_root + "/small/" + name

synthesis = dict(
    store=store,
    captions=dict(path=captions),
    encoder=dict(_delete_=True, type="DualEncoderBackbone", root=_base_.data_root + "/dual_encoder"),
    generator=dict(_delete_=True, type="RetrievalGenerator", pool=_base_.pool),
    refine=dict(temperature=0.07, lr=0.02, target_cosine=0.39),  # of this encoder; see synthcap.py
)
model = dict(rerank=dict(scores=dict(consensus=dict(temperature=0.07))))
inputs = []
