"""Bayesian networks edge by edge, in proportion to the probability of their structure given data.

Source: Deleu et al. 2022 (arXiv 2202.13903).
"""
