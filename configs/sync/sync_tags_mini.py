# SynTIC on the mini-world, trained on pairs that are reassigned by the encoder and by what the tags name
# (docs/curation.md): not SynC's, which knows no tags.
_base_ = ["../synthcap_mini.py"]
# The detector's names, with the other words that captions have for them.
other_words = dict(
    man=["guy", "gentleman"],
    woman=["lady"],
    dog=["puppy", "doggy"],
    cat=["kitty", "kitten"],
    horse=["pony"],
    car=["automobile", "sedan"],
    bus=["coach", "passenger bus"],
    truck=["lorry", "pickup truck"],
    bicycle=["bike"],
    boat=["sailboat"],
    airplane=["plane", "jet"],
    umbrella=["parasol"],
    chair=["seat"],
    table=["desk"],
    lamp=["table lamp"],
    cup=["mug"],
    hat=["cap"],
    vase=["vase of flowers", "flower vase"],
    cake=["birthday cake"],
    suitcase=["bag"],
)
other_words["teddy bear"] = ["stuffed bear"]
names = [*other_words, "bird", "kite", "ball", "balloon", "bottle", "book", "clock"]
agreement = dict(entities=dict(type="CaptionEntities", vocabulary=names, aliases=other_words))
curation = dict(steps=[dict(type="reassign", agreement=agreement)], name="agreeing", refine=True)
train_dataloader = dict(dataset=dict(pairs="agreeing", refined=True))
