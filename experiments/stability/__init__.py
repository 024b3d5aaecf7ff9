"""Trains an ST-CNN from several seeds, plainly and with the training kit of ``stn_jax.nn``.

The kit is a lower learning rate for the localization network, first steps in which that network is
not trained, and a penalty on the distance of theta from the identity.
"""
