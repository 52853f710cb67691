"""A little training: an untrained decoder says the same of everything."""

import torch


def train_a_little(model, dataset, steps, lr):
    """Steps on all of a dataset at once; returns its samples, and leaves the model in evaluation mode."""
    rows = [dataset[i] for i in range(len(dataset))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = model(**model.data_preprocessor(rows, True), mode="loss")["loss_caption"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return rows
