"""An ONNX graph that is edited node by node. Names are those of torch's exporter; a changed node keeps its output's name."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Graph:
    """The graph of a file; `layers`: those that the fault at hand is in."""

    def __init__(self, path):
        self.model = onnx.load(path)
        self.graph = self.model.graph
        self.is_bert = any(node.name.startswith("/bert/") for node in self.graph.node)
        self.layers = []
        self.fresh = 0

    def save(self, path):
        onnx.save(self.model, path)

    def path(self, layer):
        return f"/bert/encoder/layer.{layer}" if self.is_bert else f"/model/layers.{layer}"

    def node(self, name):
        return next(node for node in self.graph.node if node.name == name)

    def maker(self, value):
        """The node that makes a value."""
        return next(node for node in self.graph.node if value in node.output)

    def array(self, name):
        """The values of an initializer or of a Constant node's output."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        return numpy_helper.to_array(self.maker(name).attribute[0].t)

    def constant(self, array):
        """The name of a new initializer."""
        self.fresh += 1
        name = f"edited_{self.fresh}"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def insert(self, before, op, inputs, output=None, **attributes):
        """A new node in front of another one. Returns its output's name."""
        self.fresh += 1
        output = output or f"/edited/{op}_{self.fresh}_output_0"
        place = next(i for i, node in enumerate(self.graph.node) if node.name == before.name)
        self.graph.node.insert(
            place, helper.make_node(op, inputs, [output], f"/edited/{op}_{self.fresh}", **attributes)
        )
        return output

    def replace(self, node, op, inputs, **attributes):
        """Another op in a node's place, with the same output."""
        output = node.output[0]
        self.insert(node, op, inputs, output, **attributes)
        self.graph.node.remove(node)

    def after(self, node, op, inputs, **attributes):
        """op(output of the node, *inputs) takes over the output's name; the node's own output gets a new one."""
        output, place = node.output[0], list(self.graph.node).index(node)
        self.fresh += 1
        node.output[0] = f"/edited/{op}_{self.fresh}_raw"
        made = helper.make_node(op, [node.output[0], *inputs], [output], f"/edited/{op}_{self.fresh}", **attributes)
        self.graph.node.insert(place + 1, made)
