# SynTIC on drawings of a painter that errs never; synthcap_mini.py has the rates x1.
_base_ = ["../../../configs/synthcap_mini.py"]
store = "data/miniscenes/pairs_errors_x0"
synthesis = dict(store=store, generator=dict(drop=0.0, recolour=0.0, miscount=0.0))
model = dict(store=store)
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
