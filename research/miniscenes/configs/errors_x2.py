# SynTIC on drawings of a painter that errs twice as often; synthcap_mini.py has the rates x1.
_base_ = ["../../../configs/synthcap_mini.py"]
store = "data/miniscenes/pairs_errors_x2"
synthesis = dict(store=store, generator=dict(drop=0.2, recolour=0.2, miscount=0.2))
model = dict(store=store)
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
