"""Optimiser steps on stored rollouts, resumable bit for bit, and what watches them."""
