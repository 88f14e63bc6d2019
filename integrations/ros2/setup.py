"""The ROS 2 package, for colcon."""

from setuptools import setup

setup(
    name="steadydepth_ros2",
    version="0.2.0",
    packages=["steadydepth_ros2"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/steadydepth_ros2"]),
        ("share/steadydepth_ros2", ["package.xml"]),
    ],
    entry_points={"console_scripts": ["depth = steadydepth_ros2.node:main"]},
)
